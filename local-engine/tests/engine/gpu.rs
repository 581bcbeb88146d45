//! What a GPU changes and what it must not. These run where `TOLLGATE_GPU_TESTS` is set, in a build
//! with a GPU backend: `real` for a card of its own memory, `software` for a device that borrows
//! the machine's (Mesa's Vulkan); elsewhere they say that they looked at nothing
//! (`TOLLGATE_REQUIRE=gpu` makes a failure of that).

use local_engine::{Device, Engine, Host, HostConfig, Keep, LoadError};

use crate::harness::{Answer, answer, ask, engine, never_ending, not_checked, small};

/// What the environment says of the GPU: nothing, `software` or `real`.
fn gpu() -> Option<String> {
    let kind = std::env::var("TOLLGATE_GPU_TESTS").ok().filter(|kind| !kind.is_empty());
    if kind.is_none() {
        not_checked("gpu", "no GPU (TOLLGATE_GPU_TESTS is not set)");
    }
    kind
}

#[expect(clippy::print_stderr, reason = "what a device computed is worth a look")]
fn say(what: &str) {
    eprintln!("{what}");
}

fn first_gpu(engine: &Engine) -> Device {
    let mut devices = engine.info().devices.iter();
    devices.find(|device| device.gpu).expect("a GPU was found").clone()
}

/// By how much the logarithm of a likely first token's probability may differ between two backends:
/// they compute in other widths and orders, and a small model of four bits shows it. 0.39 was seen
/// on an H100, 0.08 on Mesa's software device.
const LOGPROB_OFF_MAX: f32 = 0.5;

/// Greedy tokens of an answer, by an engine with so many layers offloaded.
async fn eight_tokens(gpu_layers: Option<u32>) -> (Engine, Answer) {
    let mut config = small();
    config.gpu_layers = gpu_layers;
    let engine = engine(&config);
    let mut job = ask(&engine, "Name three colors.", 8);
    job.sampling.logit_bias = never_ending(&engine);
    job.logprobs = Some(5);
    let answered = answer(&engine, job).await;
    assert_eq!(answered.usage().generated_tokens, 8);
    let status = engine.status();
    assert_eq!(status.busy, status.attributed, "all engine time is attributed");
    (engine, answered)
}

#[tokio::test]
async fn all_layers_go_to_the_gpu_and_the_answer_begins_as_on_the_cpu() {
    let Some(kind) = gpu() else { return };
    let (on_gpu, answer) = eight_tokens(None).await;
    let info = on_gpu.info();
    assert_eq!(info.layers_offloaded, info.layers, "as many as there are");
    let device = first_gpu(&on_gpu);
    assert_eq!(info.offloaded_to.first(), Some(&device.name));
    assert_eq!(info.backend(), device.backend);
    if kind == "real" {
        assert!(info.gpu_memory_bytes >= info.tensor_bytes / 2, "{}", info.gpu_memory_bytes);
    }
    say(&format!("{} {}: {:?}", device.name, device.description, answer.text()));

    let (on_cpu, same) = eight_tokens(Some(0)).await;
    assert_eq!((on_cpu.info().layers_offloaded, on_cpu.info().backend()), (0, "CPU"));
    assert!(on_cpu.info().offloaded_to.is_empty());
    // Backends round differently: the first token must be the same, not every one.
    let (there, here) = (&answer.logprobs[0], &same.logprobs[0]);
    assert_eq!(there.chosen.token, here.chosen.token);
    for likely in &here.top[..3] {
        let too = there.top.iter().find(|other| other.token == likely.token);
        let off = too.map(|too| (too.logprob - likely.logprob).abs());
        say(&format!("token {}: {} on the CPU, off by {off:?}", likely.token, likely.logprob));
        assert!(off.is_some_and(|off| off <= LOGPROB_OFF_MAX), "{:?} {:?}", there.top, here.top);
    }
}

#[tokio::test]
async fn a_number_of_layers_is_kept() {
    if gpu().is_none() {
        return;
    }
    let (engine, _) = eight_tokens(Some(5)).await;
    assert_eq!(engine.info().layers_offloaded, 5);
}

#[tokio::test]
async fn a_card_that_is_named_has_a_thread_of_its_own() {
    if gpu().is_none() {
        return;
    }
    let named = first_gpu(&engine(&small())).name;
    let host = Host::start(&HostConfig::default()).expect("a host");
    let (mut on_gpu, mut on_cpu) = (small(), small());
    (on_gpu.gpu_device, on_cpu.gpu_layers) = (Some(named.clone()), Some(0));
    let on_gpu = host.keep("card", on_gpu, Keep::default()).expect("kept");
    let on_cpu = host.keep("cpu", on_cpu, Keep::default()).expect("kept");
    let on_gpu = on_gpu.engine().await.expect("loaded");
    let on_cpu = on_cpu.engine().await.expect("loaded");
    let say_it = |engine: &Engine| ask(engine, "Name three colors.", 8);
    let (one, other) =
        tokio::join!(answer(&on_gpu, say_it(&on_gpu)), answer(&on_cpu, say_it(&on_cpu)));
    assert!(one.usage().generated_tokens > 0 && other.usage().generated_tokens > 0);
    assert_eq!(on_gpu.info().offloaded_to, std::slice::from_ref(&named));
    let mut threads = std::fs::read_dir("/proc/self/task").expect("the threads of this process");
    // The system keeps 15 bytes of a thread's name.
    let own: String = format!("engine-{}", named.to_lowercase()).chars().take(15).collect();
    assert!(threads.any(|thread| {
        let name = std::fs::read_to_string(thread.expect("a thread").path().join("comm"));
        name.is_ok_and(|name| name.trim() == own)
    }));
}

#[test]
fn a_device_that_is_not_there_is_refused_with_those_that_are() {
    let mut config = small();
    config.gpu_device = Some("Nowhere7".to_owned());
    let refused = Engine::load(&config).expect_err("no such device");
    assert!(matches!(refused, LoadError::Config(_)), "{refused:?}");
    assert!(refused.to_string().contains("Nowhere7"), "{refused}");
    assert!(refused.to_string().contains("CPU"), "{refused}");
}

#[test]
fn layers_without_a_gpu_are_refused_not_forgotten() {
    let probe = engine(&small());
    if probe.info().devices.iter().any(|device| device.gpu) {
        // A build without a GPU backend looks at it on this machine too.
        say("skipped: this machine has a GPU");
        return;
    }
    let mut config = small();
    config.gpu_layers = Some(3);
    let refused = Engine::load(&config).expect_err("no GPU");
    assert!(refused.to_string().contains("gpu_layers = 3"), "{refused}");
}

/// More cells than the card has memory for: 10 % above it with all layers there.
fn too_many_cells(device: &Device) -> u32 {
    /// Layers x (keys and values) x heads x their size x bytes of a number, of the test model.
    const CELL_BYTES: u64 = 30 * 2 * 3 * 64 * 2;
    u32::try_from(device.memory_free / 10 * 11 / CELL_BYTES).expect("fits")
}

#[test]
fn out_of_device_memory_steps_down_or_refuses() {
    let Some(kind) = gpu() else { return };
    if kind != "real" {
        return not_checked("gpu", "no GPU with a memory of its own");
    }
    let mut config = small();
    let device = first_gpu(&engine(&config));
    config.context_tokens = too_many_cells(&device);
    let stepped = engine(&config);
    let info = stepped.info();
    assert!(info.layers_offloaded > 0 && info.layers_offloaded < info.layers, "{info:?}");
    drop(stepped);

    config.gpu_layers = Some(u32::MAX);
    let refused = Engine::load(&config).expect_err("asked for all and cannot have it");
    assert!(matches!(refused, LoadError::Context { .. }), "{refused:?}");
}
