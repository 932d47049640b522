//! User-data: what it is made of ([`take_apart`]), and what is done with it (the modules below; `cloud` gives the order).

pub mod cloud_config;
pub mod hosts;
pub mod instance;
pub mod mime;
pub mod mounts;
pub mod packages;
pub mod script;
pub mod users;
pub mod write_files;
pub mod yaml;

use std::io::Read;

/// Nobody sends so much; a gzip bomb would.
const LENGTH_MAX: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Script,
    ScriptPerBoot,
    ScriptPerInstance,
    ScriptPerOnce,
    Boothook,
    CloudConfig,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub kind: Kind,
    /// Names the file that it is kept in: safe as one, and unique.
    pub name: String,
    pub content: Vec<u8>,
}

/// Takes user-data apart. What is of no use is named in the second list, and the rest still counts.
pub fn take_apart(bytes: &[u8]) -> (Vec<Part>, Vec<String>) {
    let mut parts = Vec::new();
    let mut warnings = Vec::new();
    collect(bytes, &mut parts, &mut warnings);
    (parts, warnings)
}

fn collect(bytes: &[u8], parts: &mut Vec<Part>, warnings: &mut Vec<String>) {
    let bytes = match decompress(bytes) {
        Ok(bytes) => bytes,
        Err(error) => return warnings.push(format!("user-data is gzip, and damaged: {error}")),
    };
    if !mime::is_message(&bytes) {
        return add(None, None, bytes, parts, warnings);
    }
    match mime::parse(&bytes) {
        Err(error) => warnings.push(format!("user-data: {error}")),
        Ok(found) => {
            for part in found {
                match decompress(&part.body) {
                    Ok(body) if body != part.body && mime::is_message(&body) => {
                        collect(&body, parts, warnings)
                    }
                    Ok(body) => add(Some(&part.content_type), part.filename, body, parts, warnings),
                    Err(error) => warnings.push(format!("a part of user-data is gzip, and damaged: {error}")),
                }
            }
        }
    }
}

fn add(
    content_type: Option<&str>,
    filename: Option<String>,
    content: Vec<u8>,
    parts: &mut Vec<Part>,
    warnings: &mut Vec<String>,
) {
    if content.trim_ascii().is_empty() {
        return;
    }
    match content_type.and_then(kind_of_type).unwrap_or_else(|| kind_of_content(&content)) {
        Ok(kind) => {
            let number = parts.len() + 1;
            let name = filename.map_or_else(|| format!("part-{number:03}"), |name| safe_name(&name, number));
            let is_taken = parts.iter().any(|part| part.name == name);
            let name = if is_taken { format!("part-{number:03}-{name}") } else { name };
            parts.push(Part { kind, name, content });
        }
        Err(why) => warnings.push(why),
    }
}

/// What the type says; nothing for types that leave it to the content.
fn kind_of_type(content_type: &str) -> Option<Result<Kind, String>> {
    let refused = |what: &str| Some(Err(format!("user-data of type {content_type}: {what}")));
    Some(Ok(match content_type {
        "text/x-shellscript" => Kind::Script,
        "text/x-shellscript-per-boot" => Kind::ScriptPerBoot,
        "text/x-shellscript-per-instance" => Kind::ScriptPerInstance,
        "text/x-shellscript-per-once" => Kind::ScriptPerOnce,
        "text/cloud-boothook" => Kind::Boothook,
        "text/cloud-config" => Kind::CloudConfig,
        "text/plain" | "text/x-not-multipart" | "application/octet-stream" => return None,
        "text/x-include-url" | "text/x-include-once-url" => return refused("includes are not done here"),
        "text/cloud-config-archive" => return refused("archives are not done here; use MIME multi-part"),
        "text/cloud-config-jsonp" => return refused("patches are not done here"),
        "text/part-handler" => return refused("part handlers need Python, which is not here"),
        "text/jinja2" => return refused("templates are not done here"),
        _ => return refused("this type is not known"),
    }))
}

/// What the first line says.
fn kind_of_content(content: &[u8]) -> Result<Kind, String> {
    let line = content.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let line = line.trim();
    let refused = |what: &str| Err(format!("user-data that begins with {line:?}: {what}"));
    match line {
        line if line.starts_with("#!") => Ok(Kind::Script),
        line if line.starts_with("#cloud-config-archive") => {
            refused("archives are not done here; use MIME multi-part")
        }
        line if line.starts_with("#cloud-config-jsonp") => refused("patches are not done here"),
        line if line.starts_with("#cloud-config") => Ok(Kind::CloudConfig),
        line if line.starts_with("#cloud-boothook") => Ok(Kind::Boothook),
        line if line.starts_with("#include") => refused("includes are not done here"),
        line if line.starts_with("#part-handler") => refused("part handlers need Python, which is not here"),
        line if line.starts_with("## template:") => refused("templates are not done here"),
        _ => refused("it is neither a script (#!) nor #cloud-config, and nothing else that is known"),
    }
}

/// Inflates what is gzip, and leaves what is not.
pub fn decompress(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes.to_vec());
    }
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).take(LENGTH_MAX + 1).read_to_end(&mut plain)?;
    if u64::try_from(plain.len()).unwrap_or(u64::MAX) > LENGTH_MAX {
        return Err(std::io::Error::other(format!("it inflates to more than {LENGTH_MAX} bytes")));
    }
    Ok(plain)
}

/// A file name that stays in its folder, is not hidden, and is no other part's.
fn safe_name(name: &str, number: usize) -> String {
    let is_fine = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name: String = name.chars().map(|c| if is_fine(&c) { c } else { '_' }).collect();
    let name = name.trim_start_matches('.');
    if name.is_empty() { format!("part-{number:03}") } else { name.to_owned() }
}

#[cfg(test)]
mod tests;
