//! `nimbo ssh`: a shell in a guest.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, anyhow, bail};
use types::InstanceId;

use crate::client::instance::ShownInstance;
use crate::client::{self, Client, Which};

const EXAMPLES: &str = "\
It becomes ssh, which is told the instance's public address, and to know the guest by the instance's id: addresses are given to
others later. The instance's security groups must let port 22 in. Who logs in follows from the image's name, if --user does not say.

Exit status:
  1  there is no server or no such instance, or it does not run; a message tells why
  otherwise that of ssh, which is that of the command it ran, or 255

Examples:
  nimbo ssh i-0123456789abcdef0
  nimbo ssh i-0123456789abcdef0 --identity key.pem --user root -- uname -a
  nimbo ssh i-0123456789abcdef0 -- -L 8080:localhost:80";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The instance
    #[arg(value_name = "INSTANCE")]
    id: InstanceId,
    /// The private key
    #[arg(long, short, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Who logs in
    #[arg(long, short, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    which: Which,
    /// For ssh: options, or a command
    #[arg(last = true, value_name = "ARGUMENT")]
    arguments: Vec<OsString>,
}

pub(crate) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let (instance, user) = client::run(async {
        let client = args.which.connect(true).await?;
        let instance = client.instance(args.id).await?;
        client.ensure_is_real(args.id)?;
        let user = match &args.user {
            Some(user) => user.clone(),
            None => user_of(&image_name(&client, &instance).await?).to_owned(),
        };
        anyhow::Ok((instance, user))
    })?;
    if instance.state != "running" {
        bail!("{} is {}: start it first (aws ec2 start-instances)", args.id, instance.state);
    }
    let address = instance.public_address.as_ref().with_context(|| {
        format!(
            "{id} has no public address: give it an Elastic one (aws ec2 associate-address), or log in to an instance of its VPC that has one \
             and from there to {private}",
            id = args.id,
            private = instance.private_address.as_deref().unwrap_or("its private address"),
        )
    })?;
    let error = ssh(args, &user, address).exec();
    Err(anyhow!(error).context("cannot start ssh: is the package openssh-client installed?"))
}

fn ssh(args: &Args, user: &str, address: &str) -> Command {
    let mut command = Command::new("ssh");
    command.args([
        "-l",
        user,
        "-o",
        "StrictHostKeyChecking=accept-new",
        "-o",
        "CheckHostIP=no",
        "-o",
        "ConnectTimeout=30",
    ]);
    command.args(["-o", &format!("HostKeyAlias={}", args.id)]);
    if let Some(identity) = &args.identity {
        command.arg("-i").arg(identity).args(["-o", "IdentitiesOnly=yes"]);
    }
    // What begins with a dash is an option, up to the first that does not: then comes the command.
    let is_option = |argument: &&OsString| argument.as_encoded_bytes().starts_with(b"-");
    let has_options = args.arguments.first().is_some_and(|first| is_option(&first));
    if has_options {
        command.args(&args.arguments).arg(address);
    } else {
        command.arg(address).args(&args.arguments);
    }
    command
}

async fn image_name(client: &Client, instance: &ShownInstance) -> anyhow::Result<String> {
    let images = client.ec2(instance.region, "DescribeImages", &[("ImageId.1", &instance.image)]).await;
    // The image may be gone since.
    let name = images
        .ok()
        .and_then(|images| images.items(&["imagesSet"]).first()?.text(&["name"]).map(str::to_owned));
    Ok(name.unwrap_or_default())
}

/// Whom the images of a distribution let in.
fn user_of(image: &str) -> &'static str {
    const USERS: [(&str, &str); 9] = [
        ("tiny", "root"),
        ("debian", "debian"),
        ("ubuntu", "ubuntu"),
        ("alpine", "alpine"),
        ("fedora", "fedora"),
        ("centos", "centos"),
        ("rocky", "rocky"),
        ("alma", "almalinux"),
        ("arch", "arch"),
    ];
    let image = image.to_ascii_lowercase();
    USERS.iter().find(|(name, _)| image.contains(name)).map_or("ec2-user", |(_, user)| user)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn told(arguments: &[&str]) -> Vec<String> {
        let args = Cli::parse_from([&["ssh", "i-0123456789abcdef0"], arguments].concat()).args;
        let command = ssh(&args, "root", "10.0.0.4");
        command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn options_stand_before_the_address_and_a_command_behind_it() {
        let all = told(&["--identity", "k", "--", "uname", "-a"]);
        assert_eq!(all[all.len() - 3..], ["10.0.0.4", "uname", "-a"]);
        assert!(all.windows(2).any(|pair| pair == ["-i", "k"]));
        assert!(all.contains(&"HostKeyAlias=i-0123456789abcdef0".to_owned()));
        let all = told(&["--", "-L", "80:localhost:80"]);
        assert_eq!(all[all.len() - 3..], ["-L", "80:localhost:80", "10.0.0.4"]);
    }

    #[test]
    fn who_logs_in_follows_from_the_image() {
        assert_eq!(user_of("debian-12-amd64-20250316-2053"), "debian");
        assert_eq!(user_of("ubuntu/images/hvm-ssd/ubuntu-jammy"), "ubuntu");
        assert_eq!(user_of("al2023-ami-2023"), "ec2-user");
    }
}
