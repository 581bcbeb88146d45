//! Whether a header's values make sense together: what llama.cpp asserts of them while it loads
//! and while it computes, said as errors.

use super::{
    Header, PARTS_MAX,
    values::{Value, Values},
};

/// llama.cpp's compiled-in limits.
const LAYERS_MAX: u64 = 512;
const EXPERTS_MAX: u64 = 512;
/// Most heads, and most elements of one: bounds of the arithmetic, far above every real model.
const HEADS_MAX: u64 = 1 << 16;

/// Reads the values of the model's own architecture.
struct Of<'a> {
    values: &'a Values,
    architecture: &'a str,
}

impl Of<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A number from 0 up, where there is one.
    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let key = self.key(name);
        match self.values.get(&key) {
            None => Ok(None),
            Some(Value::Number(number)) => match u64::try_from(*number) {
                Ok(number) if number <= u64::from(u32::MAX) => Ok(Some(number)),
                _ => Err(format!("`{key}` is {number}")),
            },
            Some(_) => Err(format!("`{key}` is not a number")),
        }
    }

    /// A number between two bounds that must be there.
    fn within(&self, name: &str, min: u64, max: u64) -> Result<u64, String> {
        let number =
            self.number(name)?.ok_or_else(|| format!("`{}` is missing", self.key(name)))?;
        if (min..=max).contains(&number) {
            return Ok(number);
        }
        Err(format!("`{}` is {number}, and must be {min} to {max}", self.key(name)))
    }

    /// One number for each layer: a single one means all of them.
    fn per_layer(&self, name: &str, layers: u64) -> Result<Option<Vec<u64>>, String> {
        let key = self.key(name);
        let all = usize::try_from(layers).unwrap_or(0);
        match self.values.get(&key) {
            None => Ok(None),
            Some(Value::Numbers(numbers)) => {
                if numbers.len() < all {
                    return Err(format!("`{key}` has {} numbers for {all} layers", numbers.len()));
                }
                let sound = |number: &i128| match u64::try_from(*number) {
                    Ok(number) if number <= u64::from(u32::MAX) => Ok(number),
                    _ => Err(format!("`{key}` has {number} in it")),
                };
                numbers.iter().take(all).map(sound).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Ok(self.number(name)?.map(|number| vec![number; all])),
        }
    }
}

/// Checks the values and sums them up.
pub(super) fn header(values: &Values, tensor_bytes: u64) -> Result<Header, String> {
    let parts = parts(values)?;
    // Only the first part of a split model says what it is.
    if values.get("split.no").is_some_and(|part| *part != Value::Number(0)) {
        return Ok(part_header(tensor_bytes));
    }
    let architecture = values.text("general.architecture");
    let architecture = architecture.ok_or("`general.architecture` is missing")?;
    if architecture.is_empty() || architecture.len() > 64 {
        return Err("`general.architecture` has 1 to 64 bytes".to_owned());
    }
    let of = Of { values, architecture };
    let layers = of.within("block_count", 1, LAYERS_MAX)?;
    if of.number("nextn_predict_layers")?.unwrap_or(0) > layers {
        return Err("more prediction layers than layers".to_owned());
    }
    of.within("context_length", 1, u64::from(u32::MAX))?;
    let embedding = of.within("embedding_length", 1, 1 << 20)?;
    experts(&of, layers)?;
    rope(&of)?;
    let kv_elements_per_token = heads(&of, layers, embedding)?;
    Ok(Header {
        architecture: architecture.to_owned(),
        layers: u32::try_from(layers).unwrap_or(u32::MAX),
        tensor_bytes,
        kv_elements_per_token,
        vocabulary: vocabulary(values)?,
        parts,
    })
}

fn part_header(tensor_bytes: u64) -> Header {
    Header {
        architecture: String::new(),
        layers: 0,
        tensor_bytes,
        kv_elements_per_token: 0,
        vocabulary: 0,
        parts: 1,
    }
}

fn parts(values: &Values) -> Result<u64, String> {
    match values.get("split.count") {
        None => Ok(1),
        Some(Value::Number(count)) => match u64::try_from(*count) {
            Ok(count @ 0..=PARTS_MAX) => Ok(count.max(1)),
            _ => Err(format!("`split.count` is {count}")),
        },
        Some(_) => Err("`split.count` is not a number".to_owned()),
    }
}

/// Attention: the query heads share the key heads evenly. Returns the KV elements of a token.
fn heads(of: &Of<'_>, layers: u64, embedding: u64) -> Result<u64, String> {
    let Some(heads) = of.per_layer("attention.head_count", layers)? else { return Ok(0) };
    let kv_heads =
        of.per_layer("attention.head_count_kv", layers)?.unwrap_or_else(|| heads.clone());
    let first = heads.iter().copied().find(|heads| *heads > 0).unwrap_or(1);
    let key = of.number("attention.key_length")?.unwrap_or(embedding / first);
    let value = of.number("attention.value_length")?.unwrap_or(embedding / first);
    if key > HEADS_MAX || value > HEADS_MAX {
        return Err(format!("a head of {} elements", key.max(value)));
    }
    let mut elements = 0_u64;
    for (heads, kv_heads) in heads.iter().zip(&kv_heads) {
        if *heads > HEADS_MAX || *kv_heads > HEADS_MAX {
            return Err(format!("{} heads in one layer", heads.max(kv_heads)));
        }
        if *kv_heads > 0 && heads % kv_heads != 0 {
            return Err(format!("{heads} heads cannot share {kv_heads} key heads"));
        }
        elements = elements.saturating_add(kv_heads.saturating_mul(key + value));
    }
    Ok(elements)
}

fn experts(of: &Of<'_>, layers: u64) -> Result<(), String> {
    let experts = of.number("expert_count")?.unwrap_or(0);
    let used = of.per_layer("expert_used_count", layers)?.unwrap_or_default();
    let used_most = used.into_iter().max().unwrap_or(0);
    let groups = of.number("expert_group_count")?.unwrap_or(0);
    let groups_used = of.number("expert_group_used_count")?.unwrap_or(0);
    if experts > EXPERTS_MAX || used_most > experts {
        return Err(format!("{used_most} of {experts} experts cannot be used"));
    }
    if experts > 0 && used_most == 0 {
        return Err(format!("none of {experts} experts is used"));
    }
    let even = groups <= 1
        || (experts % groups == 0 && (1..groups).contains(&groups_used) && groups < experts);
    if !even || (experts == 0 && groups > 0) || (experts > 0 && groups >= experts) {
        return Err(format!("{experts} experts cannot stand in {groups} groups"));
    }
    Ok(())
}

fn rope(of: &Of<'_>) -> Result<(), String> {
    let key = of.key("rope.scaling.type");
    match (of.values.get(&key), of.values.text(&key)) {
        (None, _) | (_, Some("none" | "linear" | "yarn" | "longrope")) => Ok(()),
        _ => Err(format!("`{key}` is no scaling there is")),
    }
}

/// The vocabulary's arrays fit each other, and every byte of a prompt can become a token.
fn vocabulary(values: &Values) -> Result<u64, String> {
    let length = |key: &str| match values.get(key) {
        None => Ok(None),
        Some(Value::Array(_, length)) => Ok(Some(*length)),
        Some(Value::Numbers(numbers)) => Ok(u64::try_from(numbers.len()).ok()),
        Some(_) => Err(format!("`{key}` is not an array")),
    };
    let Some(tokens) = length("tokenizer.ggml.tokens")? else {
        return Err("the file has no vocabulary".to_owned());
    };
    if tokens == 0 || tokens > 1 << 24 {
        return Err(format!("a vocabulary of {tokens} tokens"));
    }
    for key in ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"] {
        if length(key)?.is_some_and(|entries| entries < tokens) {
            return Err(format!("`{key}` is shorter than the vocabulary of {tokens} tokens"));
        }
    }
    // llama.cpp ends the process where a text has a byte that such a vocabulary cannot write.
    if values.text("tokenizer.ggml.model") == Some("llama") && !values.has_all_bytes() {
        return Err("the vocabulary has no tokens for single bytes".to_owned());
    }
    Ok(tokens)
}
