//! A request that costs nothing and tells whether a provider is there and takes our key: its list of
//! models.

use super::kinds::{Auth, Format};
use crate::config::CloudConfig;
use reqwest::{Client, Request, Url};
use secrecy::ExposeSecret;

/// The request for a provider's list of models.
///
/// # Errors
/// What is wrong with the route, in the operator's terms; never with its key.
pub(crate) fn probe(client: &Client, cloud: &CloudConfig) -> Result<Request, String> {
    let mut url =
        Url::parse(&cloud.base_url).map_err(|error| format!("its `base_url`: {error}"))?;
    // Azure's older API has its paths below `openai`, as the requests of its routes do.
    let below = cloud.api_version.as_ref().map(|_| "openai");
    url.path_segments_mut()
        .map_err(|()| "its `base_url` has no path".to_owned())?
        .pop_if_empty()
        .extend(below)
        .push("models");
    if let Some(version) = &cloud.api_version {
        url.query_pairs_mut().append_pair("api-version", version);
    }
    let mut request = client.get(url);
    if let Some(key) = &cloud.api_key {
        request = match cloud.kind.auth() {
            Auth::Bearer => request.bearer_auth(key.expose_secret()),
            Auth::Header(name) => request.header(name, key.expose_secret()),
        };
    }
    if cloud.kind.format() == Format::Anthropic {
        request = request.header("anthropic-version", "2023-06-01");
    }
    for (name, value) in &cloud.headers {
        request = request.header(name, value.expose_secret());
    }
    // The error could quote a header.
    request.build().map_err(|_| "its headers cannot be sent".to_owned())
}

/// Whether a provider is known to have a list of models: every kind but the one that may be anybody's
/// has, and those whose format others speak too have it at their own address.
pub(crate) fn lists_models(cloud: &CloudConfig) -> bool {
    let host = |url: &str| Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    match cloud.kind.name() {
        "openai-compatible" => false,
        "openai" | "anthropic" => cloud.kind.base_url().and_then(host) == host(&cloud.base_url),
        _ => true,
    }
}
