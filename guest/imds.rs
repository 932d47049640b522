//! The EC2 instance metadata service, as far as a first boot needs it ("Instance metadata and user data" in the
//! Amazon EC2 user guide).
//!
//! A token is asked for first (version 2). A service that refuses to give one is used without (version 1). Paths
//! begin with a dated version; the newest that the service knows is taken.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::http::{self, HttpError, Response};

/// Where every cloud of this kind has it.
pub const ADDRESS: ([u8; 4], u16) = ([169, 254, 169, 254], 80);

const VERSIONS: [&str; 5] = ["2021-03-23", "2018-09-24", "2016-09-02", "2009-04-04", "latest"];
const TOKEN_LIFE_S: &str = "21600";
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What a first boot wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    pub instance_id: String,
    pub local_hostname: Option<String>,
    pub public_keys: Vec<String>,
    /// Nothing if the instance was started without.
    pub user_data: Option<Vec<u8>>,
}

struct Service {
    address: SocketAddr,
    token: Option<String>,
    version: &'static str,
}

/// Asks the service, again and again until `wait` is over if it does not answer.
///
/// # Errors
/// The last one, if there was no answer in time; any, if the answers make no sense.
pub fn fetch(address: SocketAddr, wait: Duration) -> Result<Metadata> {
    let mut service = find(address, wait)?;
    let instance_id = service.find_version()?;
    let mut metadata = Metadata {
        instance_id,
        local_hostname: service.text("meta-data/local-hostname")?,
        public_keys: service.public_keys()?,
        user_data: None,
    };
    metadata.user_data = service.get("user-data")?.filter(|data| !data.is_empty());
    Ok(metadata)
}

/// Waits for the service, and gets a token if it gives one.
fn find(address: SocketAddr, wait: Duration) -> Result<Service> {
    let deadline = Instant::now() + wait;
    let mut delay = RETRY_FIRST;
    loop {
        let header = [("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_LIFE_S)];
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = REQUEST_LIMIT.min(left).max(Duration::from_millis(1));
        match http::request(address, "PUT", "/latest/api/token", &header, limit) {
            Ok(Response { status: 200, body }) => {
                let token = String::from_utf8(body).context("the metadata service's token is not text")?;
                return Ok(Service { address, token: Some(token), version: VERSIONS[0] });
            }
            // It is there, but a service of version 1, or it is still starting.
            Ok(Response { status: 400..500, .. }) => {
                return Ok(Service { address, token: None, version: VERSIONS[0] });
            }
            Ok(Response { status, .. }) if left.is_zero() => {
                bail!("the metadata service at {address} answers with status {status}")
            }
            Err(error) if left.is_zero() || !is_worth_waiting(&error) => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
        // Nobody tells us when a service on another machine begins to listen.
        thread::sleep(delay.min(left));
        delay = (delay * 2).min(RETRY_MAX);
    }
}

/// Without a route there is no network, and waiting brings none.
fn is_worth_waiting(error: &HttpError) -> bool {
    let HttpError::Connect { source, .. } = error else { return true };
    source.kind() != std::io::ErrorKind::NetworkUnreachable
}

impl Service {
    /// Settles on the newest version that the service has, and gives back the instance's id.
    fn find_version(&mut self) -> Result<String> {
        for version in VERSIONS {
            self.version = version;
            if let Some(id) = self.text("meta-data/instance-id")? {
                // It names a folder.
                if id.is_empty() || id.contains('/') || id.starts_with('.') {
                    bail!("the metadata service gives the instance id {id:?}");
                }
                return Ok(id);
            }
        }
        bail!("the metadata service at {} has no instance id under {}", self.address, VERSIONS.join(", "))
    }

    /// The keys are listed as `0=name`, and each is a folder with its formats.
    fn public_keys(&self) -> Result<Vec<String>> {
        let Some(list) = self.text("meta-data/public-keys/")? else { return Ok(Vec::new()) };
        let mut keys = Vec::new();
        for line in list.lines() {
            let Some((index, _name)) = line.split_once('=') else { continue };
            let key = self.text(&format!("meta-data/public-keys/{}/openssh-key", index.trim()))?;
            keys.extend(key.iter().flat_map(|key| key.lines()).map(str::to_owned));
        }
        Ok(keys)
    }

    /// A value without the blanks around it; nothing if the service has none.
    fn text(&self, path: &str) -> Result<Option<String>> {
        let Some(body) = self.get(path)? else { return Ok(None) };
        let text =
            String::from_utf8(body).with_context(|| format!("{path} of the metadata service is not text"))?;
        Ok(Some(text.trim().to_owned()))
    }

    /// Nothing if the service says that there is no such thing.
    fn get(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let header = self.token.as_deref().map(|token| ("X-aws-ec2-metadata-token", token));
        let path = format!("/{}/{path}", self.version);
        let response = http::request(self.address, "GET", &path, header.as_slice(), REQUEST_LIMIT)
            .with_context(|| format!("ask for {path}"))?;
        match response.status {
            200 => Ok(Some(response.body)),
            404 => Ok(None),
            status => bail!("the metadata service at {} answers {path} with status {status}", self.address),
        }
    }
}

#[cfg(test)]
mod tests;
