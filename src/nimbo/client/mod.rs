//! A client of `nimbo serve`, for the commands that ask it something.
//!
//! Which server, and as whom, is found in this order: what the command line names; what `nimbo env` had exported (`AWS_ENDPOINT_URL`
//! and the like); the server that runs with the state folder; the address where one listens if nobody says otherwise. What a server is,
//! and which keys it takes, it tells itself ([`About`]).

mod http;
pub(crate) mod instance;
mod xml;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use aws::sigv4::Signer;
use hyper::header::{self, HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use types::Region;

pub(crate) use http::Endpoint;
use http::{Reply, Unreachable};
pub(crate) use xml::Element;

use crate::credentials_file;
use crate::serve::SIMULATED;
use crate::serve::state_folder;

/// Where a server listens if nobody says otherwise.
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:4566";
/// How long a server that was started just before may take to listen.
const START_TIME: Duration = Duration::from_secs(2);
const START_PAUSE: Duration = Duration::from_millis(20);
/// Of EC2's API.
const EC2_VERSION: &str = "2016-11-15";
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// Where a server tells what it is.
pub(crate) const ABOUT_PATH: &str = "/_nimbo/server";
/// The file of the state folder that says where the server is.
pub(crate) const PLACE_FILE: &str = "server.json";

/// What a server tells of itself, to everybody.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) version: String,
    pub(crate) is_simulated: bool,
    /// The one that clients work in if they do not say otherwise.
    pub(crate) region: Region,
    /// Those in which there is anything.
    pub(crate) regions: Vec<Region>,
    pub(crate) state: Option<PathBuf>,
}

/// Where a server is, as its state folder says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) process: u32,
    pub(crate) endpoint: String,
    /// The file of the authority that signed its certificate, if it is not one that everybody knows.
    pub(crate) certificate_authority: Option<PathBuf>,
}

// Which server is meant: told before or behind a subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// The server [default: what AWS_ENDPOINT_URL says, or the one that runs with the state folder, or http://127.0.0.1:4566]
    #[arg(long, global = true, value_name = "URL")]
    endpoint: Option<Endpoint>,
    /// The state folder of the server
    #[arg(long, global = true, value_name = "FOLDER", default_value = state_folder::DEFAULT)]
    state: PathBuf,
    /// The authority of the server's certificate [default: what AWS_CA_BUNDLE says, or the server's own]
    #[arg(long, global = true, value_name = "FILE")]
    ca_bundle: Option<PathBuf>,
    /// The section of the server's file of access keys
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,
    /// The region [default: what AWS_REGION says, or the server's own]
    #[arg(long, global = true, value_name = "REGION")]
    region: Option<Region>,
}

/// Access keys.
pub(crate) struct Keys {
    pub(crate) access_key: String,
    pub(crate) secret: String,
    session_token: Option<String>,
}

/// A server, and as whom to ask it.
pub(crate) struct Client {
    pub(crate) endpoint: Endpoint,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) about: About,
    pub(crate) keys: Keys,
    pub(crate) region: Region,
}

/// An error that the service answered.
#[derive(Debug, thiserror::Error)]
#[error("{message} ({code})")]
pub(crate) struct Refused {
    pub(crate) code: String,
    message: String,
}

impl Which {
    /// Finds the server; what `nimbo env` exports is taken from the environment if `heeds_environment`.
    ///
    /// # Errors
    /// When there is none, or its keys are not to be had; the message tells what to do.
    pub(crate) async fn connect(&self, heeds_environment: bool) -> anyhow::Result<Client> {
        let variable = |name| std::env::var(name).ok().filter(|value| heeds_environment && !value.is_empty());
        let place = self.place()?;
        let (endpoint, its_ca) = match (&self.endpoint, variable("AWS_ENDPOINT_URL"), place) {
            (Some(endpoint), ..) => (endpoint.clone(), None),
            (None, Some(text), _) => {
                (text.parse().map_err(|wrong| anyhow!("AWS_ENDPOINT_URL: {wrong}"))?, None)
            }
            (None, None, Some((endpoint, ca))) => (endpoint, ca),
            (None, None, None) => (DEFAULT_ENDPOINT.parse().map_err(anyhow::Error::msg)?, None),
        };
        let ca = self.ca_bundle.clone().or_else(|| variable("AWS_CA_BUNDLE").map(PathBuf::from)).or(its_ca);
        let about = ask_about(&endpoint, ca.as_deref()).await?;
        let region = match (self.region, variable("AWS_REGION")) {
            (Some(region), _) => region,
            (None, Some(text)) => text.parse().context("AWS_REGION")?,
            (None, None) => about.region,
        };
        let exported = variable("AWS_ACCESS_KEY_ID").zip(variable("AWS_SECRET_ACCESS_KEY"));
        let keys = match exported.filter(|_| self.profile.is_none()) {
            Some((access_key, secret)) => {
                Keys { access_key, secret, session_token: variable("AWS_SESSION_TOKEN") }
            }
            None => self.keys(&about)?,
        };
        Ok(Client { endpoint, ca, about, keys, region })
    }

    /// Where the server is that runs with the state folder, if it says so.
    fn place(&self) -> anyhow::Result<Option<(Endpoint, Option<PathBuf>)>> {
        let path = self.state.join(PLACE_FILE);
        // Whoever may not look into the folder finds the server by its address.
        let Ok(text) = std::fs::read(&path) else { return Ok(None) };
        let wrong = || format!("{} does not say where the server is", path.display());
        let place: Place = serde_json::from_slice(&text).with_context(wrong)?;
        // What a server that was killed left behind.
        if !Path::new("/proc").join(place.process.to_string()).exists() {
            return Ok(None);
        }
        let endpoint = place.endpoint.parse().map_err(anyhow::Error::msg).with_context(wrong)?;
        Ok(Some((endpoint, place.certificate_authority)))
    }

    fn keys(&self, about: &About) -> anyhow::Result<Keys> {
        if about.is_simulated && self.profile.is_none() {
            let key = || SIMULATED.to_owned();
            return Ok(Keys { access_key: key(), secret: key(), session_token: None });
        }
        let name = self.profile.as_deref().unwrap_or(credentials_file::DEFAULT_PROFILE);
        let folder = about.state.as_deref().unwrap_or(&self.state);
        let path = folder.join(credentials_file::NAME);
        let profiles = credentials_file::read(&path).context(
            "the server's access keys cannot be read: ask as the user that it runs as, or export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )?;
        let found = profiles.into_iter().find(|profile| profile.name == name);
        let found = found.with_context(|| format!("{} has no section [{name}]", path.display()))?;
        Ok(Keys { access_key: found.access_key, secret: found.secret, session_token: None })
    }
}

/// Asks a server what it is. One that was started a moment ago is waited for.
async fn ask_about(endpoint: &Endpoint, ca: Option<&Path>) -> anyhow::Result<About> {
    let started = Instant::now();
    let reply = loop {
        let reply = http::exchange(endpoint, ca, "GET", ABOUT_PATH, HeaderMap::new(), Vec::new()).await;
        match reply {
            Err(error) if error.is::<Unreachable>() && started.elapsed() < START_TIME => {
                tokio::time::sleep(START_PAUSE).await;
            }
            Err(error) if error.is::<Unreachable>() => {
                return Err(error.context(format!(
                    "no nimbo serves at {endpoint}: start one (nimbo serve --simulate), or say where it is (--endpoint URL)"
                )));
            }
            reply => break reply?,
        }
    };
    let not_nimbo = || format!("what answers at {endpoint} is no nimbo");
    if reply.status != 200 {
        bail!("{}: it says {}", not_nimbo(), reply.status);
    }
    serde_json::from_slice(&reply.body).with_context(not_nimbo)
}

impl Client {
    /// Asks EC2 in a region.
    ///
    /// # Errors
    /// [`Refused`], and when the server does not answer.
    pub(crate) async fn ec2(
        &self,
        region: Region,
        action: &str,
        parameters: &[(&str, &str)],
    ) -> anyhow::Result<Element> {
        let mut body = form(&[("Action", action), ("Version", EC2_VERSION)]);
        if !parameters.is_empty() {
            body.push('&');
            body.push_str(&form(parameters));
        }
        let reply = self
            .send(region, "/", FORM, body.into_bytes())
            .await
            .with_context(|| format!("{action} failed"))?;
        let text = String::from_utf8(reply.body).context("the answer is no text")?;
        let answer = Element::parse(&text)?;
        if reply.status == 200 {
            return Ok(answer);
        }
        let error = answer.at(&["Errors", "Error"]).or(answer.at(&["Error"]));
        let told = |name| error.and_then(|error| error.text(&[name])).unwrap_or(answer.name()).to_owned();
        Err(Refused { code: told("Code"), message: told("Message") }.into())
    }

    /// Asks for what AWS's API has no operation for.
    ///
    /// # Errors
    /// [`Refused`], and when there is no answer.
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = body.to_string().into_bytes();
        let reply = self.send(self.region, path, "application/json", body).await?;
        let answer: Value = serde_json::from_slice(&reply.body).context("the answer is no JSON")?;
        if reply.status == 200 {
            return Ok(answer);
        }
        let told = |name: &str| answer["error"][name].as_str().unwrap_or_default().to_owned();
        Err(Refused { code: told("code"), message: told("message") }.into())
    }

    async fn send(
        &self,
        region: Region,
        path: &str,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> anyhow::Result<Reply> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::HOST,
            self.endpoint.authority().parse().context("the server's name is no header")?,
        );
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        let request =
            aws::request::Request { method: "POST", path, query: "", headers: &headers, body: &body };
        let signer = Signer {
            access_key: &self.keys.access_key,
            secret: &self.keys.secret,
            session_token: self.keys.session_token.as_deref(),
            region: region.name(),
            service: "ec2",
        };
        let signed = signer.sign(&request, SystemTime::now()).context("the request cannot be signed")?;
        headers.extend(signed);
        http::exchange(&self.endpoint, self.ca.as_deref(), "POST", path, headers, body).await
    }
}

/// Parameters as a form has them.
fn form(parameters: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in parameters {
        if !out.is_empty() {
            out.push('&');
        }
        for (text, end) in [(name, "="), (value, "")] {
            for &byte in text.as_bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    out.push(byte.into());
                } else {
                    out.push_str(&format!("%{byte:02X}"));
                }
            }
            out.push_str(end);
        }
    }
    out
}

/// Runs what a command does with a server.
///
/// # Errors
/// The work's own.
pub(crate) fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the event loop")?.block_on(work)
}
