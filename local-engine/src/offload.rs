//! Where a model's layers go: which device, how many layers, and what to try next when its memory
//! is too small. Pure: it sees the devices that were found and says what to try.
//!
//! **Invariant:** what the operator asked for is done or refused, never quietly less. Only an
//! automatic number of layers steps down.

use crate::info::Device;

/// One way to load a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offload {
    /// Layers on the GPU, the output layer included; 0 keeps everything on the CPU.
    pub(crate) layers: u32,
    /// The only GPU to use, as an index into the devices; `None` is all that were found.
    pub(crate) device: Option<usize>,
}

impl Offload {
    /// Names of the devices that get layers.
    pub(crate) fn devices(self, devices: &[Device]) -> Vec<String> {
        let gets = |index: usize| self.layers > 0 && self.device.is_none_or(|only| only == index);
        let gpus = devices.iter().enumerate().filter(|(index, device)| device.gpu && gets(*index));
        gpus.map(|(_, device)| device.name.clone()).collect()
    }
}

/// Everything on the CPU.
pub(crate) const CPU: Offload = Offload { layers: 0, device: None };

/// The ways to load a model of `all` layers, in the order in which to try them.
///
/// # Errors
/// Says what was asked for and cannot be had: layers without a GPU, or a device that is not there.
pub(crate) fn plans(
    devices: &[Device],
    all: u32,
    wanted: Option<u32>,
    device: Option<&str>,
) -> Result<Vec<Offload>, String> {
    let device = device.map(|name| find(devices, name)).transpose()?;
    let any_gpu = devices.iter().any(|device| device.gpu);
    match wanted {
        Some(0) => Ok(vec![CPU]),
        Some(layers) if any_gpu => Ok(vec![Offload { layers, device }]),
        Some(layers) => Err(format!(
            "gpu_layers = {layers}, but no GPU was found by this build (its devices: {})",
            names(devices)
        )),
        None if any_gpu => {
            let steps = [all, all / 4 * 3, all / 2, all / 4];
            let mut plans: Vec<Offload> = steps
                .into_iter()
                .filter(|layers| *layers > 0)
                .map(|layers| Offload { layers, device })
                .collect();
            plans.push(CPU);
            plans.dedup();
            Ok(plans)
        }
        None => Ok(vec![CPU]),
    }
}

/// The GPU of that name, in any case of letters.
fn find(devices: &[Device], name: &str) -> Result<usize, String> {
    let named = |device: &Device| device.gpu && device.name.eq_ignore_ascii_case(name);
    devices.iter().position(named).ok_or_else(|| {
        format!(
            "gpu_device = \"{name}\" is not a GPU of this machine (devices: {})",
            names(devices)
        )
    })
}

fn names(devices: &[Device]) -> String {
    let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What a load took of the GPUs' memory: the sum of what each has less of afterwards.
pub(crate) fn taken(before: &[Device], after: &[Device]) -> u64 {
    let less = |was: &Device| {
        let is = after.iter().find(|device| device.name == was.name);
        is.map_or(0, |is| was.memory_free.saturating_sub(is.memory_free))
    };
    before.iter().filter(|device| device.gpu).map(less).sum()
}

#[cfg(test)]
mod tests {
    use super::{CPU, Offload, plans, taken};
    use crate::info::Device;

    fn device(name: &str, gpu: bool, memory_free: u64) -> Device {
        Device {
            name: name.to_owned(),
            description: String::new(),
            backend: name.trim_end_matches(char::is_numeric).to_owned(),
            gpu,
            memory_total: 100,
            memory_free,
        }
    }

    fn two_gpus() -> Vec<Device> {
        vec![device("CUDA0", true, 80), device("CUDA1", true, 90), device("CPU", false, 50)]
    }

    #[test]
    fn an_automatic_number_steps_down_to_the_cpu() {
        let layers = |plans: Vec<Offload>| plans.iter().map(|plan| plan.layers).collect::<Vec<_>>();
        let automatic = plans(&two_gpus(), 31, None, None).expect("there are GPUs");
        assert_eq!(layers(automatic), [31, 21, 15, 7, 0]);
        let tiny = plans(&two_gpus(), 2, None, None).expect("there are GPUs");
        assert_eq!(layers(tiny), [2, 1, 0]);
    }

    #[test]
    fn a_number_that_was_asked_for_is_tried_alone_or_refused() {
        let eight = plans(&two_gpus(), 31, Some(8), None);
        assert_eq!(eight, Ok(vec![Offload { layers: 8, device: None }]));
        let refused = plans(&[device("CPU", false, 50)], 31, Some(8), None).expect_err("no GPU");
        assert!(refused.contains("gpu_layers = 8") && refused.contains("CPU"), "{refused}");
        assert_eq!(plans(&[], 31, Some(0), None), Ok(vec![CPU]));
        assert_eq!(plans(&[device("CPU", false, 50)], 31, None, None), Ok(vec![CPU]));
    }

    #[test]
    fn a_device_is_found_by_its_name_or_refused_with_those_there_are() {
        let second = plans(&two_gpus(), 31, Some(31), Some("cuda1"));
        assert_eq!(second, Ok(vec![Offload { layers: 31, device: Some(1) }]));
        let refused = plans(&two_gpus(), 31, None, Some("CUDA2")).expect_err("not there");
        assert!(refused.contains("CUDA0, CUDA1, CPU"), "{refused}");
        // A processor is not a GPU, whatever it is called.
        assert!(plans(&two_gpus(), 31, None, Some("CPU")).is_err());
    }

    #[test]
    fn memory_taken_is_what_the_gpus_have_less() {
        let after = vec![device("CUDA0", true, 70), device("CUDA1", true, 95)];
        assert_eq!(taken(&two_gpus(), &after), 10);
    }
}
