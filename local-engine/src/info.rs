//! What is known about a loaded model: facts of the file and of where it runs, for the ledger's
//! manifest and for `/ready`. Fixed once loaded.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::defaults::SamplingDefaults;

/// A device llama.cpp found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The backend's name for it, such as `CUDA0` or `CPU`.
    pub name: String,
    /// The maker's name for it.
    pub description: String,
    /// The backend: `CPU`, `CUDA`, `Vulkan`, `Metal`, ...
    pub backend: String,
    /// Whether it is a GPU, integrated ones included.
    pub gpu: bool,
    /// Memory in bytes, as reported.
    pub memory_total: u64,
    /// Free memory in bytes before the model was loaded, as reported.
    pub memory_free: u64,
}

/// A draft model that is loaded beside one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftInfo {
    /// Its own name (`general.name`), or the file's.
    pub name: String,
    /// The file it was loaded from.
    pub file: PathBuf,
    /// The quantisation, such as `Q4_1`, or `unknown`.
    pub quantisation: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Tokens its KV cache holds.
    pub kv_cells: u32,
}

/// A loaded model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// The model's own name (`general.name`), or the file's.
    pub name: String,
    /// The file it was loaded from.
    pub file: PathBuf,
    /// The architecture (`general.architecture`).
    pub architecture: String,
    /// The quantisation, such as `Q4_1`, or `unknown`.
    pub quantisation: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// How its makers want tokens drawn.
    pub sampling: SamplingDefaults,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// The tokens that end the model's turn.
    pub end_tokens: Vec<i32>,
    /// The context length the model was trained with.
    pub trained_context_tokens: u32,
    /// Most tokens one job may have, prompt and answer together.
    pub context_tokens: u32,
    /// Tokens of the longest text that can be embedded.
    pub embed_tokens_max: u32,
    /// Tokens the KV cache holds over all slots.
    pub kv_cells: u32,
    /// Whether the KV cache is one pool for all slots.
    pub kv_unified: bool,
    /// SHA-256 of the chat template's bytes in hex; `None` without a template.
    pub template_sha256: Option<String>,
    /// Layers of the model, the output layer included.
    pub layers: u32,
    /// Those of them on a GPU.
    pub layers_offloaded: u32,
    /// The devices those layers are on, by name; empty where the CPU has all.
    pub offloaded_to: Vec<String>,
    /// The devices llama.cpp found, as they were before the model was loaded.
    pub devices: Vec<Device>,
    /// Bytes of GPU memory that weights, KV cache and work space took, by what the devices report;
    /// another process that takes memory meanwhile is counted too.
    pub gpu_memory_bytes: u64,
    /// Threads that compute.
    pub threads: u32,
    /// Most tokens of a step.
    pub batch_tokens: u32,
    /// Most prompt tokens of a step that also generates.
    pub prefill_chunk: u32,
    /// The model that drafts for it, where there is one.
    pub draft: Option<DraftInfo>,
    /// Time taken to load, context included, and of a hosted model until its file's digest is known: what a
    /// request that waits for the load waits.
    pub load_time: Duration,
    /// Memory it takes, by the estimate that models share the device's memory by; texts to embed take
    /// more, which [`crate::Engine::memory_bytes`] has.
    pub memory_bytes: u64,
}

impl ModelInfo {
    /// The backend that computes: the first GPU's when layers are offloaded, else `CPU`.
    #[must_use]
    pub fn backend(&self) -> &str {
        let first = self.offloaded_to.first();
        let gpu = self.devices.iter().find(|device| Some(&device.name) == first);
        gpu.map_or("CPU", |device| &device.backend)
    }
}

/// The name of a `general.file_type`.
pub(crate) fn quantisation(file_type: &str) -> &'static str {
    match file_type {
        "0" => "F32",
        "1" => "F16",
        "2" => "Q4_0",
        "3" => "Q4_1",
        "7" => "Q8_0",
        "8" => "Q5_0",
        "9" => "Q5_1",
        "10" => "Q2_K",
        "11" => "Q3_K_S",
        "12" => "Q3_K_M",
        "13" => "Q3_K_L",
        "14" => "Q4_K_S",
        "15" => "Q4_K_M",
        "16" => "Q5_K_S",
        "17" => "Q5_K_M",
        "18" => "Q6_K",
        "19" => "IQ2_XXS",
        "20" => "IQ2_XS",
        "21" => "Q2_K_S",
        "22" => "IQ3_XS",
        "23" => "IQ3_XXS",
        "24" => "IQ1_S",
        "25" => "IQ4_NL",
        "26" => "IQ3_S",
        "27" => "IQ3_M",
        "28" => "IQ2_S",
        "29" => "IQ2_M",
        "30" => "IQ4_XS",
        "31" => "IQ1_M",
        "32" => "BF16",
        "36" => "TQ1_0",
        "37" => "TQ2_0",
        "38" => "MXFP4",
        "39" => "NVFP4",
        _ => "unknown",
    }
}
