//! How a request wants tokens drawn, in OpenAI's fields and in llama-server's extra ones.
//!
//! **Invariant:** what a request does not say is llama-server's default, and what it says is in
//! range or refused.

use super::super::{
    BadRequest, ChatRequest, check,
    fields::Field,
    json::{self, Kind},
};
use local_engine::{Dry, Sampling, SamplingDefaults};

// What a request that says nothing about sampling gets, as in llama.cpp's own server. OpenAI's plain
// temperature 1 suits models of hundreds of billions of parameters; a small one rambles under it.
const TEMPERATURE: f32 = 0.8;
const TOP_P: f32 = 0.95;
const TOP_K: u32 = 40;
const MIN_P: f32 = 0.05;
const REPEAT_LAST_N: u32 = 64;
const DRY_BASE: f32 = 1.75;
const DRY_ALLOWED_LENGTH: u32 = 2;
const DRY_LAST_N: u32 = 64;
const DRY_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// The seed that means none.
const SEED_DRAWN: i64 = -1;
/// Widest window of a penalty, in tokens.
const WINDOW_MAX: u32 = 65_536;
/// Most sequence breakers, and the longest in bytes.
const BREAKERS_MAX: (usize, usize) = (8, 32);

/// Reads everything about sampling.
pub(super) fn read(request: &ChatRequest) -> Result<Sampling, BadRequest> {
    let number = |field, min, max, default| number(request, field, min, max, default);
    let seed = request
        .given(Field::Seed)
        .map(|raw| check::integer("seed", raw, i64::MIN, i64::MAX))
        .transpose()?
        .filter(|seed| *seed != SEED_DRAWN)
        .map(i64::cast_unsigned);
    let penalty = number(Field::RepetitionPenalty, 0.01, 10.0, 1.0)?;
    let repeat_penalty = number(Field::RepeatPenalty, 0.01, 10.0, penalty)?;
    let both = [Field::RepetitionPenalty, Field::RepeatPenalty].map(|it| request.given(it));
    if both.iter().all(Option::is_some) && repeat_penalty.to_bits() != penalty.to_bits() {
        let message = "`repeat_penalty` and `repetition_penalty` are one thing and differ here";
        return Err(BadRequest::value("repetition_penalty", message));
    }
    Ok(Sampling {
        temperature: number(Field::Temperature, 0.0, 2.0, TEMPERATURE)?,
        // 0 leaves the likeliest token, as the smallest positive nucleus does.
        top_p: number(Field::TopP, 0.0, 1.0, TOP_P)?.max(f32::EPSILON),
        top_k: top_k(request)?,
        min_p: number(Field::MinP, 0.0, 1.0, MIN_P)?,
        typical_p: number(Field::TypicalP, 0.0, 1.0, 1.0)?.max(f32::EPSILON),
        repeat_penalty,
        presence_penalty: number(Field::PresencePenalty, -2.0, 2.0, 0.0)?,
        frequency_penalty: number(Field::FrequencyPenalty, -2.0, 2.0, 0.0)?,
        repeat_last_n: window(request, Field::RepeatLastN, REPEAT_LAST_N)?,
        dry: dry(request)?,
        logit_bias: logit_bias(request)?,
        seed,
    })
}

/// What a request says nothing of is as the model's file has it, as in llama.cpp's own server.
pub fn with_defaults(
    request: &ChatRequest,
    sampling: Sampling,
    file: &SamplingDefaults,
) -> Sampling {
    let silent = |field| request.given(field).is_none();
    let pick = |field, own, of_file: Option<f32>| match of_file {
        Some(of_file) if silent(field) => of_file,
        _ => own,
    };
    Sampling {
        temperature: pick(Field::Temperature, sampling.temperature, file.temperature),
        top_p: pick(Field::TopP, sampling.top_p, file.top_p),
        top_k: match file.top_k {
            Some(k) if silent(Field::TopK) => Some(k).filter(|k| *k > 0),
            _ => sampling.top_k,
        },
        min_p: pick(Field::MinP, sampling.min_p, file.min_p),
        repeat_penalty: match file.repeat_penalty {
            Some(penalty) if silent(Field::RepeatPenalty) && silent(Field::RepetitionPenalty) => {
                penalty
            }
            _ => sampling.repeat_penalty,
        },
        repeat_last_n: match file.repeat_last_n {
            Some(last) if silent(Field::RepeatLastN) => last,
            _ => sampling.repeat_last_n,
        },
        ..sampling
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the engine samples in f32; every value is small and has been checked"
)]
fn number(
    request: &ChatRequest,
    field: Field,
    min: f64,
    max: f64,
    default: f32,
) -> Result<f32, BadRequest> {
    request.given(field).map_or(Ok(default), |raw| {
        check::number(field.name(), raw, min, max).map(|value| value as f32)
    })
}

/// A window of tokens; -1 is the widest.
fn window(request: &ChatRequest, field: Field, default: u32) -> Result<u32, BadRequest> {
    let Some(raw) = request.given(field) else { return Ok(default) };
    let last = check::integer(field.name(), raw, -1, i64::from(WINDOW_MAX))?;
    Ok(u32::try_from(last).unwrap_or(WINDOW_MAX))
}

/// 0 and -1 switch it off.
fn top_k(request: &ChatRequest) -> Result<Option<u32>, BadRequest> {
    let Some(raw) = request.given(Field::TopK) else { return Ok(Some(TOP_K)) };
    let k = check::integer("top_k", raw, -1, i64::from(i32::MAX))?;
    Ok(u32::try_from(k).ok().filter(|k| *k > 0))
}

/// Its fields are read whether it is on or not: a wrong one is told.
fn dry(request: &ChatRequest) -> Result<Option<Dry>, BadRequest> {
    let multiplier = number(request, Field::DryMultiplier, 0.0, 100.0, 0.0)?;
    let allowed = match request.given(Field::DryAllowedLength) {
        None => DRY_ALLOWED_LENGTH,
        Some(raw) => {
            let length = check::integer("dry_allowed_length", raw, 0, i64::from(WINDOW_MAX))?;
            u32::try_from(length).unwrap_or(DRY_ALLOWED_LENGTH)
        }
    };
    let dry = Dry {
        multiplier,
        base: number(request, Field::DryBase, 1.0, 100.0, DRY_BASE)?,
        allowed_length: allowed,
        last_n: window(request, Field::DryPenaltyLastN, DRY_LAST_N)?,
        breakers: breakers(request)?.into(),
    };
    Ok((multiplier > 0.0).then_some(dry))
}

fn breakers(request: &ChatRequest) -> Result<Vec<String>, BadRequest> {
    let name = "dry_sequence_breakers";
    let Some(raw) = request.given(Field::DrySequenceBreakers) else {
        return Ok(DRY_BREAKERS.map(str::to_owned).to_vec());
    };
    if json::kind(raw) != Kind::Array {
        return Err(BadRequest::kind(name, "a list of strings"));
    }
    let (count_max, bytes_max) = BREAKERS_MAX;
    let mut breakers = Vec::new();
    json::elements(raw, |index, text| {
        let param = format_args!("{name}[{index}]");
        let text = check::string(param, text)?;
        if text.is_empty() || text.len() > bytes_max || text.contains('\0') || index >= count_max {
            let message = format!(
                "`{name}` must have at most {count_max} strings of 1 to {bytes_max} bytes, without a null"
            );
            return Err(BadRequest::value(param, message));
        }
        breakers.push(text.into_owned());
        Ok(())
    })?;
    Ok(breakers)
}

fn logit_bias(request: &ChatRequest) -> Result<Vec<(i32, f32)>, BadRequest> {
    let mut biases = Vec::new();
    let Some(raw) = request.given(Field::LogitBias) else { return Ok(biases) };
    json::members(raw, |key, member| {
        let token = key.parse().map_err(|_| {
            BadRequest::value("logit_bias", "a key of `logit_bias` must be a token id")
        })?;
        let bias = member
            .raw
            .parse::<f32>()
            .map_err(|_| BadRequest::kind(format_args!("logit_bias.{key}"), "a number"))?;
        biases.push((token, bias));
        Ok::<_, BadRequest>(())
    })?;
    Ok(biases)
}
