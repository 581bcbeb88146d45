//! Checks a job before it is queued. What llama.cpp would answer with an abort or with nonsense
//! (ids outside the vocabulary, infinite biases, an empty stop text) never gets past here.

use crate::{
    embedding::{EMBED_INPUTS_MAX, EmbedJob},
    error::SubmitError,
    info::ModelInfo,
    job::{Dry, Job, Sampling, TOP_LOGPROBS_MAX},
};

/// Most stop texts of one job.
const STOPS_MAX: usize = 64;
/// Longest stop text in bytes.
const STOP_BYTES_MAX: usize = 4_096;
/// Most biased tokens of one job.
const BIASES_MAX: usize = 4_096;

/// Widest window of a penalty, in tokens.
pub(crate) const WINDOW_MAX: u32 = 65_536;
/// Most sequence breakers of DRY: each is looked up in the whole vocabulary.
const BREAKERS_MAX: usize = 8;
/// Longest sequence breaker in bytes.
const BREAKER_BYTES_MAX: usize = 32;

/// Checks a job against the model it is for.
pub(crate) fn check(job: &Job, model: &ModelInfo) -> Result<(), SubmitError> {
    if job.prompt.is_empty() {
        return Err(SubmitError::EmptyPrompt);
    }
    if job.max_tokens == 0 {
        return invalid("max_tokens", "must be at least 1");
    }
    let prompt_tokens = u32::try_from(job.prompt.len()).unwrap_or(u32::MAX);
    if prompt_tokens.saturating_add(job.max_tokens) > model.context_tokens {
        return Err(SubmitError::ContextOverflow {
            prompt_tokens,
            max_tokens: job.max_tokens,
            context_tokens: model.context_tokens,
        });
    }
    if !job.prompt.iter().all(|token| in_vocabulary(*token, model)) {
        return invalid("prompt", "has a token id outside the vocabulary");
    }
    if job.stop.len() > STOPS_MAX {
        return invalid("stop", &format!("must be at most {STOPS_MAX} texts"));
    }
    if job.stop.iter().any(|stop| stop.is_empty() || stop.len() > STOP_BYTES_MAX) {
        return invalid("stop", &format!("each must have 1 to {STOP_BYTES_MAX} bytes"));
    }
    if job.logprobs.is_some_and(|top| top > TOP_LOGPROBS_MAX) {
        return invalid("top_logprobs", &format!("must be at most {TOP_LOGPROBS_MAX}"));
    }
    check_sampling(&job.sampling, model)
}

/// Checks texts to embed, the longest of which may have `tokens_max` tokens.
pub(crate) fn check_embed(
    job: &EmbedJob,
    tokens_max: u32,
    model: &ModelInfo,
) -> Result<(), SubmitError> {
    if job.inputs.is_empty() || job.inputs.len() > EMBED_INPUTS_MAX {
        return invalid("input", &format!("must be 1 to {EMBED_INPUTS_MAX} texts"));
    }
    for input in &job.inputs {
        if input.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        let prompt_tokens = u32::try_from(input.len()).unwrap_or(u32::MAX);
        if prompt_tokens > tokens_max {
            let context_tokens = tokens_max;
            return Err(SubmitError::ContextOverflow {
                prompt_tokens,
                max_tokens: 0,
                context_tokens,
            });
        }
        if !input.iter().all(|token| in_vocabulary(*token, model)) {
            return invalid("input", "has a token id outside the vocabulary");
        }
    }
    Ok(())
}

fn check_sampling(sampling: &Sampling, model: &ModelInfo) -> Result<(), SubmitError> {
    let within = |name, value: f32, min: f32, max: f32| {
        if value.is_finite() && (min..=max).contains(&value) {
            return Ok(());
        }
        invalid(name, &format!("must be between {min} and {max}"))
    };
    within("temperature", sampling.temperature, 0.0, 100.0)?;
    within("top_p", sampling.top_p, f32::MIN_POSITIVE, 1.0)?;
    within("min_p", sampling.min_p, 0.0, 1.0)?;
    within("typical_p", sampling.typical_p, f32::MIN_POSITIVE, 1.0)?;
    within("repeat_penalty", sampling.repeat_penalty, 0.01, 100.0)?;
    within("presence_penalty", sampling.presence_penalty, -100.0, 100.0)?;
    within("frequency_penalty", sampling.frequency_penalty, -100.0, 100.0)?;
    if sampling.repeat_last_n > WINDOW_MAX {
        return invalid("repeat_last_n", &format!("must be at most {WINDOW_MAX}"));
    }
    if let Some(dry) = &sampling.dry {
        within("dry_multiplier", dry.multiplier, 0.0, 100.0)?;
        within("dry_base", dry.base, 1.0, 100.0)?;
        check_dry(dry)?;
    }
    if sampling.top_k == Some(0) {
        return invalid("top_k", "must be at least 1");
    }
    if sampling.logit_bias.len() > BIASES_MAX {
        return invalid("logit_bias", &format!("must name at most {BIASES_MAX} tokens"));
    }
    for (token, bias) in &sampling.logit_bias {
        if !in_vocabulary(*token, model) {
            let last = model.vocabulary.saturating_sub(1);
            return invalid("logit_bias", &format!("{token} is no token id: they go to {last}"));
        }
        within("logit_bias", *bias, -100.0, 100.0)?;
    }
    Ok(())
}

fn check_dry(dry: &Dry) -> Result<(), SubmitError> {
    if dry.allowed_length > WINDOW_MAX {
        return invalid("dry_allowed_length", &format!("must be at most {WINDOW_MAX}"));
    }
    if dry.last_n > WINDOW_MAX {
        return invalid("dry_penalty_last_n", &format!("must be at most {WINDOW_MAX}"));
    }
    let wrong =
        |text: &String| text.is_empty() || text.len() > BREAKER_BYTES_MAX || text.contains('\0');
    if dry.breakers.texts().len() > BREAKERS_MAX || dry.breakers.texts().iter().any(wrong) {
        let limits =
            format!("must be at most {BREAKERS_MAX} texts of 1 to {BREAKER_BYTES_MAX} bytes");
        return invalid("dry_sequence_breakers", &limits);
    }
    Ok(())
}

fn in_vocabulary(token: i32, model: &ModelInfo) -> bool {
    u32::try_from(token).is_ok_and(|token| token < model.vocabulary)
}

fn invalid<T>(parameter: &'static str, reason: &str) -> Result<T, SubmitError> {
    Err(SubmitError::Invalid { parameter, reason: reason.to_owned() })
}
