//! `packages`, with whatever package tool the image has.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::cloud_config::CloudConfig;
use crate::services;

/// How a tool is told what to do.
struct Tool {
    path: &'static str,
    update: &'static [&'static str],
    upgrade: &'static [&'static str],
    install: &'static [&'static str],
}

const TOOLS: [Tool; 5] = [
    Tool {
        path: "/usr/bin/apt-get",
        update: &["-q", "update"],
        upgrade: &["-q", "-y", "dist-upgrade"],
        install: &["-q", "-y", "install"],
    },
    Tool { path: "/sbin/apk", update: &["update"], upgrade: &["upgrade"], install: &["add"] },
    Tool {
        path: "/usr/bin/dnf",
        update: &["-y", "makecache"],
        upgrade: &["-y", "upgrade"],
        install: &["-y", "install"],
    },
    Tool {
        path: "/usr/bin/yum",
        update: &["-y", "makecache"],
        upgrade: &["-y", "upgrade"],
        install: &["-y", "install"],
    },
    Tool {
        path: "/usr/bin/zypper",
        update: &["-n", "refresh"],
        upgrade: &["-n", "update"],
        install: &["-n", "install"],
    },
];

/// Updates, upgrades and installs, as far as is asked for. `root` is where the tool is looked for.
pub fn apply(root: &Path, config: &CloudConfig) -> Result<()> {
    if !config.package_update && !config.package_upgrade && config.packages.is_empty() {
        return Ok(());
    }
    let Some(tool) = TOOLS.iter().find(|tool| root.join(tool.path.trim_start_matches('/')).exists()) else {
        let looked_for: Vec<&str> = TOOLS.iter().map(|tool| tool.path).collect();
        let wanted =
            if config.packages.is_empty() { "an update".to_owned() } else { config.packages.join(", ") };
        bail!("this image has no package tool for {wanted} (looked for {})", looked_for.join(", "));
    };
    // An index that was never fetched names no packages.
    if config.package_update || !config.packages.is_empty() {
        tool.run(tool.update, &[])?;
    }
    if config.package_upgrade {
        tool.run(tool.upgrade, &[])?;
    }
    if !config.packages.is_empty() {
        tool.run(tool.install, &config.packages)?;
    }
    Ok(())
}

impl Tool {
    fn run(&self, verb: &[&str], packages: &[String]) -> Result<()> {
        let mut command = services::program(self.path);
        command.env("DEBIAN_FRONTEND", "noninteractive").args(verb).args(packages).stdin(Stdio::null());
        let status = command.status().with_context(|| format!("start {}", self.path))?;
        if !status.success() {
            bail!("{} {} {} ended with {status}", self.path, verb.join(" "), packages.join(" "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tool_says_what_was_wanted_and_looked_for() {
        let root = tempfile::tempdir().unwrap();
        let config = CloudConfig { packages: vec!["nginx".into(), "curl".into()], ..CloudConfig::default() };
        let error = apply(root.path(), &config).unwrap_err().to_string();
        assert!(error.contains("nginx, curl") && error.contains("/usr/bin/apt-get"), "{error}");
        apply(root.path(), &CloudConfig::default()).unwrap();
    }
}
