//! Small files written here: the sound one passes, and each way to break it is refused in words.

use std::io::Cursor;

use super::{GgufError, Header, check};

/// A key-value as it is written.
enum Written {
    Number(u32),
    Text(&'static str),
    Texts(Vec<String>),
    Numbers(Vec<u32>),
}

/// A file in the making.
struct Built {
    values: Vec<(&'static str, Written)>,
    /// Name, shape, type, and the data's bytes.
    tensors: Vec<(&'static str, Vec<u64>, u32, u64)>,
}

/// The smallest header that says all a model must say.
fn sound() -> Built {
    let tokens = (0..40).map(|id| format!("token {id}")).collect();
    Built {
        values: vec![
            ("general.architecture", Written::Text("llama")),
            ("llama.block_count", Written::Number(2)),
            ("llama.context_length", Written::Number(128)),
            ("llama.embedding_length", Written::Number(64)),
            ("llama.attention.head_count", Written::Number(4)),
            ("llama.attention.head_count_kv", Written::Number(2)),
            ("tokenizer.ggml.model", Written::Text("gpt2")),
            ("tokenizer.ggml.tokens", Written::Texts(tokens)),
        ],
        tensors: vec![
            ("token_embd.weight", vec![64, 40], 3, 64 * 40 / 32 * 20),
            ("output_norm.weight", vec![64], 0, 256),
        ],
    }
}

impl Built {
    fn set(mut self, key: &'static str, value: Written) -> Built {
        self.values.retain(|(other, _)| *other != key);
        self.values.push((key, value));
        self
    }

    fn without(mut self, key: &str) -> Built {
        self.values.retain(|(other, _)| *other != key);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3_u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.values.len() as u64).to_le_bytes());
        for (key, value) in &self.values {
            text(&mut out, key);
            match value {
                Written::Number(number) => {
                    out.extend(4_u32.to_le_bytes());
                    out.extend(number.to_le_bytes());
                }
                Written::Text(value) => {
                    out.extend(8_u32.to_le_bytes());
                    text(&mut out, value);
                }
                Written::Texts(texts) => {
                    out.extend([9_u32.to_le_bytes(), 8_u32.to_le_bytes()].concat());
                    out.extend((texts.len() as u64).to_le_bytes());
                    texts.iter().for_each(|value| text(&mut out, value));
                }
                Written::Numbers(numbers) => {
                    out.extend([9_u32.to_le_bytes(), 4_u32.to_le_bytes()].concat());
                    out.extend((numbers.len() as u64).to_le_bytes());
                    numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
                }
            }
        }
        let mut offset = 0_u64;
        for (name, shape, kind, bytes) in &self.tensors {
            text(&mut out, name);
            out.extend(u32::try_from(shape.len()).unwrap().to_le_bytes());
            shape.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += bytes.next_multiple_of(32);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.resize(out.len() + usize::try_from(offset).unwrap(), 0);
        out
    }

    fn check(&self) -> Result<Header, GgufError> {
        look_at(&self.bytes())
    }

    fn refusal(&self) -> String {
        self.check().expect_err("it is refused").what
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn look_at(bytes: &[u8]) -> Result<Header, GgufError> {
    check(Cursor::new(bytes), bytes.len() as u64)
}

#[test]
fn a_sound_header_says_what_the_model_is() {
    let header = sound().check().expect("sound");
    assert_eq!(header.architecture, "llama");
    assert_eq!((header.layers, header.vocabulary, header.parts), (2, 40, 1));
    assert_eq!(header.tensor_bytes, 1_600 + 256);
    // Two layers, two key heads of 16 elements, keys and values.
    assert_eq!(header.kv_elements_per_token, 2 * 2 * (16 + 16));
}

#[test]
fn values_that_abort_llama_cpp_are_refused_in_words() {
    let with = |key, value| sound().set(key, value).refusal();
    let tokens = |texts: &[&str]| Written::Texts(texts.iter().map(ToString::to_string).collect());
    let table = [
        (with("llama.block_count", Written::Number(0)), "must be 1 to 512"),
        (with("llama.block_count", Written::Number(513)), "must be 1 to 512"),
        (with("llama.block_count", Written::Text("two")), "is not a number"),
        (sound().without("llama.block_count").refusal(), "`llama.block_count` is missing"),
        (with("llama.context_length", Written::Number(0)), "must be 1 to"),
        (with("llama.embedding_length", Written::Number(0)), "must be 1 to"),
        (with("llama.attention.head_count_kv", Written::Number(3)), "cannot share"),
        (with("llama.attention.head_count_kv", Written::Numbers(vec![2, 3])), "cannot share"),
        (with("llama.attention.head_count_kv", Written::Numbers(vec![2])), "for 2 layers"),
        (with("llama.expert_count", Written::Number(600)), "cannot be used"),
        (with("llama.expert_count", Written::Number(4)), "none of 4 experts"),
        (with("llama.expert_used_count", Written::Number(1)), "cannot be used"),
        (with("llama.expert_group_count", Written::Number(1)), "groups"),
        (with("llama.nextn_predict_layers", Written::Number(9)), "more prediction layers"),
        (with("llama.rope.scaling.type", Written::Text("odd")), "no scaling"),
        (with("tokenizer.ggml.tokens", tokens(&["a", "b", "a"])), "text of an earlier one"),
        (with("tokenizer.ggml.tokens", tokens(&["", "[EMPTY_0]"])), "text of an earlier one"),
        (with("tokenizer.ggml.tokens", tokens(&[])), "0 tokens"),
        (with("tokenizer.ggml.token_type", Written::Numbers(vec![1])), "shorter than"),
        (with("tokenizer.ggml.model", Written::Text("llama")), "single bytes"),
        (sound().without("tokenizer.ggml.tokens").refusal(), "no vocabulary"),
        (sound().without("general.architecture").refusal(), "is missing"),
        (with("general.alignment", Written::Number(0)), "alignment of 0"),
        (with("general.alignment", Written::Number(48)), "alignment of 48"),
        (with("general.alignment", Written::Text("32")), "not a 32-bit number"),
        (with("split.count", Written::Number(100_000)), "`split.count` is 100000"),
    ];
    for (said, expected) in table {
        assert!(said.contains(expected), "expected {expected:?} in {said:?}");
    }
}

#[test]
fn tensors_that_abort_llama_cpp_are_refused_in_words() {
    let with = |change: fn(&mut Built)| {
        let mut built = sound();
        change(&mut built);
        built.refusal()
    };
    let table = [
        (with(|built| built.tensors[0].1 = vec![64, 0]), "has 0 elements"),
        (with(|built| built.tensors[0].1 = vec![u64::MAX, 2]), "elements in one dimension"),
        (with(|built| built.tensors[0].1 = vec![1 << 35, 1 << 35]), "elements in one dimension"),
        (with(|built| built.tensors[0].1 = vec![33, 40]), "not a multiple of 32"),
        (with(|built| built.tensors[0].1 = Vec::new()), "has 0 dimensions"),
        (with(|built| built.tensors[0].1 = vec![1; 5]), "has 5 dimensions"),
        (with(|built| built.tensors[0].2 = 99), "has the type 99"),
        (with(|built| built.tensors[0].2 = 24), "which no weight can have"),
        (with(|built| built.tensors[1].2 = 2), "must be F32"),
        (with(|built| built.tensors[0].3 = 32), "of the data, not at"),
        (with(|built| built.tensors[1].0 = "token_embd.weight"), "the same name"),
        (with(|built| built.tensors[1].1 = vec![6_400]), "is cut off"),
    ];
    for (said, expected) in table {
        assert!(said.contains(expected), "expected {expected:?} in {said:?}");
    }
}

#[test]
fn a_header_cut_anywhere_is_refused() {
    let whole = sound().bytes();
    for length in 0..whole.len() {
        assert!(look_at(&whole[..length]).is_err(), "cut at {length} of {}", whole.len());
    }
    assert!(look_at(&whole).is_ok());
}

#[test]
fn lengths_beyond_the_file_allocate_nothing() {
    let whole = sound().bytes();
    // Eight bytes of ones at every place: as a count, a length, a type, a shape, an offset.
    for at in 0..whole.len() - 8 {
        let mut bytes = whole.clone();
        bytes[at..at + 8].fill(0xff);
        let _ended = look_at(&bytes);
    }
    // Every single bit of the header turned.
    for bit in 0..8 * 700 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let _ended = look_at(&bytes);
    }
}
