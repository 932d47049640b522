//! `write_files`: what is to be in which file.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;

use super::mime::BASE64;
use super::yaml::Node;
use crate::passwd::Accounts;

const MODE_DEFAULT: u32 = 0o644;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteFile {
    pub path: String,
    pub content: Vec<u8>,
    pub mode: u32,
    /// `USER:GROUP`, or root's.
    pub owner: Option<String>,
    pub append: bool,
    /// To be written once users and packages are there.
    pub defer: bool,
}

/// Reads an item, and decodes its content.
pub fn read(node: &Node, said: &mut Vec<String>) -> Result<WriteFile, String> {
    let Node::Map(entries) = node else {
        return Err(format!("{} where a mapping should be", node.describe()));
    };
    let mut file = WriteFile {
        path: String::new(),
        content: Vec::new(),
        mode: MODE_DEFAULT,
        owner: None,
        append: false,
        defer: false,
    };
    let mut encoding = "text/plain";
    for (key, value) in entries.iter().filter(|(_, value)| !value.is_null()) {
        let text = || value.text().ok_or_else(|| format!("{key} is {}", value.describe()));
        let flag = || value.boolean().ok_or_else(|| format!("{key} should be true or false"));
        match key.as_str() {
            "path" => file.path = text()?.to_owned(),
            "content" => file.content = text()?.as_bytes().to_vec(),
            "encoding" => encoding = text()?,
            "permissions" => file.mode = mode(value).ok_or("permissions should be octal, such as '0644'")?,
            "owner" => file.owner = Some(text()?.to_owned()),
            "append" => file.append = flag()?,
            "defer" => file.defer = flag()?,
            _ => said.push(format!("{key} is not known here and not done")),
        }
    }
    if !file.path.starts_with('/') {
        return Err(format!("path should begin with a slash, and is {:?}", file.path));
    }
    file.content =
        decode(&file.content, encoding).map_err(|why| format!("content of {}: {why}", file.path))?;
    Ok(file)
}

/// A number is taken as the number it is, which YAML has read as octal or not; text is octal.
fn mode(value: &Node) -> Option<u32> {
    let mode = match value {
        Node::Plain(_) => u32::try_from(value.integer()?).ok(),
        _ => u32::from_str_radix(value.text()?.trim_start_matches("0o"), 8).ok(),
    };
    mode.filter(|&mode| mode <= 0o7777)
}

fn decode(content: &[u8], encoding: &str) -> Result<Vec<u8>, String> {
    let from_base64 = || {
        let dense: Vec<u8> = content.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        BASE64.decode(dense).map_err(|error| format!("it is not base64: {error}"))
    };
    let inflate = |bytes: &[u8]| {
        if !bytes.starts_with(&[0x1f, 0x8b]) {
            return Err("it is not gzip".to_owned());
        }
        super::decompress(bytes).map_err(|error| format!("it is damaged gzip: {error}"))
    };
    match encoding.trim().to_ascii_lowercase().as_str() {
        "text/plain" => Ok(content.to_vec()),
        "b64" | "base64" => from_base64(),
        "gz" | "gzip" => inflate(content),
        "gz+b64" | "gz+base64" | "gzip+b64" | "gzip+base64" => inflate(&from_base64()?),
        other => Err(format!("the encoding {other} is not known; it may be b64, gz, or gz+b64")),
    }
}

impl WriteFile {
    /// Writes it under the folder `root`, with the folders above it.
    pub fn write(&self, root: &Path, accounts: &Accounts) -> Result<()> {
        let path = root.join(self.path.trim_start_matches('/'));
        let context = || format!("write {}", self.path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(context)?;
        }
        let mut options = File::options();
        options.create(true).write(true).append(self.append).truncate(!self.append);
        let mut file = options.open(&path).with_context(context)?;
        // Before the content, so that what is secret is so from the first byte on.
        file.set_permissions(fs::Permissions::from_mode(self.mode)).with_context(context)?;
        if let Some(owner) = &self.owner {
            let (user, group) = accounts.owner(owner).with_context(context)?;
            std::os::unix::fs::fchown(&file, Some(user), Some(group)).with_context(context)?;
            // A change of owner takes set-uid bits away.
            file.set_permissions(fs::Permissions::from_mode(self.mode)).with_context(context)?;
        }
        file.write_all(&self.content).with_context(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(text: &str) -> Result<WriteFile, String> {
        let mut said = Vec::new();
        let file = read(&Node::parse(text).unwrap(), &mut said);
        assert_eq!(said, Vec::<String>::new());
        file
    }

    #[test]
    fn permissions_are_octal_however_they_are_written() {
        for (text, mode) in
            [("0640", 0o640), ("'0640'", 0o640), ("\"640\"", 0o640), ("'0o640'", 0o640), ("420", 0o644)]
        {
            assert_eq!(read_one(&format!("{{path: /a, permissions: {text}}}")).unwrap().mode, mode, "{text}");
        }
        assert!(read_one("{path: /a, permissions: rw}").unwrap_err().contains("octal"));
    }

    #[test]
    fn content_is_decoded() {
        // printf hello | gzip -n | base64
        let gz = "H4sIAAAAAAAAA8tIzcnJBwCGphA2BQAAAA==";
        for (encoding, content) in [("b64", "aGVs\n  bG8"), ("gz+b64", gz), ("text/plain", "hello")] {
            let file =
                read_one(&format!("path: /a\nencoding: {encoding}\ncontent: |-\n  {content}\n")).unwrap();
            assert_eq!(file.content, b"hello", "{encoding}");
        }
        assert!(read_one("{path: /a, encoding: gz, content: hello}").unwrap_err().contains("not gzip"));
        assert!(read_one("{path: /a, encoding: rot13}").unwrap_err().contains("rot13"));
        assert!(read_one("{path: a}").unwrap_err().contains("slash"));
    }

    #[test]
    fn files_are_written_and_appended_to() {
        let root = tempfile::tempdir().unwrap();
        let accounts = Accounts::load(root.path());
        let file = read_one("{path: /etc/x/motd, content: hello, permissions: '0600'}").unwrap();
        file.write(root.path(), &accounts).unwrap();
        WriteFile { append: true, ..file }.write(root.path(), &accounts).unwrap();
        let path = root.path().join("etc/x/motd");
        assert_eq!(fs::read(&path).unwrap(), b"hellohello");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn an_owner_must_exist() {
        let root = tempfile::tempdir().unwrap();
        let file = read_one("{path: /a, content: x, owner: 'nosuch:root'}").unwrap();
        let error = file.write(root.path(), &Accounts::load(root.path())).unwrap_err();
        assert!(format!("{error:#}").contains("nosuch"), "{error:#}");
    }
}
