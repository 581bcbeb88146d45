//! Fields that change what an answer costs, or put something into the prompt whose size cannot be
//! known here. Those that prices cover are read, the others are refused by name rather than booked
//! wrongly: a reservation must be an upper bound.
//!
//! `service_tier` is priced: a route whose price has no rates for the tier asked for refuses it, and
//! `auto` is held at the dearest tier. Refused are:
//!
//! | field | why |
//! |---|---|
//! | `service_tier` = `batch` or an unknown word | no answer now, or no known rate |
//! | `web_search_options`, `search_parameters`, `plugins` | fees per search, and found text as input |
//! | `prediction` | rejected predicted tokens are billed above the output cap |
//! | `audio`, `modalities` other than text | audio rates |
//! | `models`, `fallbacks`, `preset`, `provider` with a preference, `api_base`, `user_config` | another model's or host's price |
//! | `extra_body` | a gateway further on writes its members over those that are read here |
//! | `data_sources` | found text as input (Azure) |
//! | `speed` but `standard`, `inference_geo` but `global` | rates of their own |
//! | `deferred` | an answer that is fetched later, and paid |
//! | `compaction` | an answer of its own, beside the output cap |
//! | `billing_policy`, `fallback_credit_token` | who pays, and what |
//! | `best_of` above `n`, `n_cmpl` other than `n`, `use_beam_search` | more answers than choices |
//! | `chat_template` | a prompt without a bound |
//!
//! In messages: parts of type `input_audio` and `file`. Among tools: those a provider runs itself.

use super::{
    BadRequest, check,
    fields::Field,
    json::{self, Kind},
};
use policies::ServiceTier;

/// Fields that change what an answer costs, whatever they say.
const COSTLY: [Field; 12] = [
    Field::Plugins,
    Field::Models,
    Field::Provider,
    Field::Fallbacks,
    Field::Preset,
    Field::ApiBase,
    Field::UserConfig,
    Field::ExtraBody,
    Field::DataSources,
    Field::Compaction,
    Field::BillingPolicy,
    Field::FallbackCreditToken,
];
/// Fields with the one value that the usual price is of.
const USUAL: [(Field, &str); 3] = [
    (Field::Speed, "\"standard\""),
    (Field::InferenceGeo, "\"global\""),
    (Field::Deferred, "false"),
];

/// The service tier asked for; refuses every other price-bearing field. `given` is a field's value
/// where it is neither absent nor null.
pub(super) fn check<'a>(
    given: impl Fn(Field) -> Option<&'a str>,
) -> Result<ServiceTier, BadRequest> {
    let refused = [
        (Field::WebSearchOptions, "searches cost extra"),
        (Field::SearchParameters, "searches cost extra"),
        (Field::Prediction, "rejected predicted tokens cost more than the output cap allows for"),
        (Field::Audio, "answers are text"),
        (Field::ChatTemplate, "the prompt it makes has no bound that could be reserved"),
    ];
    for (field, why) in refused {
        if given(field).is_some() {
            return Err(unpriced(field, why));
        }
    }
    for field in COSTLY {
        if let Some(raw) = given(field)
            && states_anything(raw)?
        {
            return Err(unpriced(field, "it changes what the answer costs"));
        }
    }
    for (field, usual) in USUAL {
        if given(field).is_some_and(|raw| raw != usual) {
            return Err(unpriced(field, &format!("only {usual} has a price")));
        }
    }
    let choices = given(Field::N).unwrap_or("1");
    if given(Field::BestOf).is_some_and(|raw| raw != "1" && raw != choices) {
        return Err(unpriced(Field::BestOf, "more answers are generated than choices returned"));
    }
    // llama-server reads it before `n`, which is what was counted.
    if given(Field::NCmpl).is_some_and(|raw| raw != choices) {
        return Err(unpriced(Field::NCmpl, "it differs from `n`, the choices that are paid for"));
    }
    if given(Field::UseBeamSearch).is_some_and(|raw| raw != "false") {
        return Err(unpriced(Field::UseBeamSearch, "more is generated than returned"));
    }
    modalities(given(Field::Modalities))?;
    service(given(Field::ServiceTier))
}

/// The service tier asked for; refuses one that is not priced.
pub(super) fn service(raw: Option<&str>) -> Result<ServiceTier, BadRequest> {
    let Some(raw) = raw else { return Ok(ServiceTier::Standard) };
    let word = check::string("service_tier", raw)?;
    match (ServiceTier::from_word(&word), word.as_ref()) {
        (ServiceTier::Batch, _) => {
            Err(unpriced(Field::ServiceTier, "batches are not answered while a caller waits"))
        }
        (ServiceTier::Unknown, "auto") => Ok(ServiceTier::Unknown),
        (ServiceTier::Unknown, _) => Err(unpriced(Field::ServiceTier, "this tier has no price")),
        (tier, _) => Ok(tier),
    }
}

fn modalities(raw: Option<&str>) -> Result<(), BadRequest> {
    let Some(raw) = raw else { return Ok(()) };
    check::array("modalities", raw)?;
    json::elements(raw, |index, modality| {
        match check::string(format_args!("modalities[{index}]"), modality)?.as_ref() {
            "text" => Ok(()),
            _ => Err(unpriced(Field::Modalities, "only text is served")),
        }
    })
}

/// Whether `raw` says more than nothing: not an empty list, nor an object of such.
fn states_anything(raw: &str) -> Result<bool, BadRequest> {
    let empty = |raw: &str| match json::kind(raw) {
        Kind::Null | Kind::Bool => true,
        Kind::Array | Kind::Object => raw
            .bytes()
            .skip(1)
            .all(|byte| byte.is_ascii_whitespace() || matches!(byte, b']' | b'}')),
        Kind::Number | Kind::String => false,
    };
    if json::kind(raw) != Kind::Object {
        return Ok(!empty(raw));
    }
    let mut states = false;
    json::members::<BadRequest>(raw, |_, member| {
        states |= !empty(member.raw);
        Ok(())
    })?;
    Ok(states)
}

fn unpriced(field: Field, why: &str) -> BadRequest {
    let name = field.name();
    BadRequest::unsupported(name, format!("`{name}` is not served: {why}"))
}
