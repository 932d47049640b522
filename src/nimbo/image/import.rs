//! `nimbo image import`: a disk image becomes an image of a region (AMI).
//!
//! ```text
//!   CreateVolume ──▶ the image is written into the volume ──▶ CreateSnapshot ──▶ RegisterImage
//!                                                                  └──────▶ DeleteVolume
//! ```
//!
//! All but one of the steps are operations of EC2, so the server needs nothing for this that it does not have: what is made has an owner, is encrypted if
//! the account wants that, and counts as everything else. The step between them needs no server either. A volume that nobody uses is a folder of the
//! state folder, which belongs to the user that the server runs as; whoever may write there opens it, as `nimbo volume` does, and nobody else can meanwhile.
//! AWS's own way (EBS direct APIs) would bring every block through the API, from the same machine to the same disk.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::volume::crypt::KeyFile;
use ::volume::import::{self, Progress as Reached};
use ::volume::{Stores, Volume};
use anyhow::{Context as _, anyhow, bail};
use types::Region;

use crate::client::{self, Client, Which};
use crate::progress::Progress;
use crate::volume::stop::{StopFlag, StopSignals};

const EXAMPLES: &str = "\
Prints the new image's id. The server must run on this machine, and this command as its user. The image is its account's own, in one region;
aws ec2 copy-image brings it to another, and modify-image-attribute shares it. Nothing is left of an import that failed or was
stopped by Ctrl-C.

Exit status:
  0  imported
  1  not imported; a message tells why

Examples:
  nimbo image import debian-12-genericcloud-amd64.qcow2 --name debian-12
  nimbo image import \"$(nimbo image build tiny)\" --name tiny";

/// How often the server is asked how far it is.
const LOOK: Duration = Duration::from_millis(100);
/// How long it may take to make a volume.
const MAKE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The disk image, which is only read
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the new image is called: 3 to 128 letters, digits and ( ) [ ] . - / ' @ _ or spaces [default: the file's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What it is, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// What instances call the disk
    #[arg(long, value_name = "DEVICE", default_value = "/dev/xvda")]
    root_device: String,
    #[command(flatten)]
    which: Which,
}

pub(super) fn main(args: &Args) -> anyhow::Result<ExitCode> {
    let stop = Arc::new(StopSignals::catch()?.into_flag()?);
    let id = client::run(async {
        let client = args.which.connect(true).await?;
        let mut import = Import { region: client.region, client, stop, made: Vec::new() };
        let imported = import.run(args).await;
        import.clean_up(imported.is_ok()).await;
        imported.with_context(|| format!("cannot import {}", args.file.display()))
    })?;
    println!("{id}");
    Ok(ExitCode::SUCCESS)
}

/// An import that is under way.
struct Import {
    client: Client,
    region: Region,
    stop: Arc<StopFlag>,
    /// By which operation and parameter each goes again, the last first; and whether it goes when all is well, too.
    made: Vec<(&'static str, &'static str, String, bool)>,
}

impl Import {
    async fn run(&mut self, args: &Args) -> anyhow::Result<String> {
        let state = self.state_folder()?;
        let size_gib = import::disk_bytes(&args.file)?.div_ceil(1 << 30);
        let name = match &args.name {
            Some(name) => name.clone(),
            None => args.file.file_stem().context("the file has no name")?.to_string_lossy().into_owned(),
        };
        self.ensure_free(&name).await?;
        let volume = self.create_volume(size_gib).await?;
        self.write(&state, &volume, &args.file).await?;
        let snapshot = self.create_snapshot(&volume, &name).await?;
        self.register(args, &name, &snapshot).await
    }

    /// Where the server keeps its volumes.
    fn state_folder(&self) -> anyhow::Result<PathBuf> {
        if self.client.about.is_simulated {
            bail!(
                "the server at {} is a simulation, whose disks hold nothing: --seed-images names images there",
                self.client.endpoint
            );
        }
        let state =
            self.client.about.state.clone().context("the server does not say where its volumes are")?;
        let volumes = state.join("volumes");
        let writable = nix::unistd::access(&volumes, nix::unistd::AccessFlags::W_OK);
        writable.with_context(|| {
            format!(
                "{} is not to be written to: run this on the server's machine, as its user",
                volumes.display()
            )
        })?;
        Ok(state)
    }

    /// Before anything is copied: the name would be refused in the end.
    async fn ensure_free(&self, name: &str) -> anyhow::Result<()> {
        let parameters = [("Owner.1", "self"), ("Filter.1.Name", "name"), ("Filter.1.Value.1", name)];
        let found = self.client.ec2(self.region, "DescribeImages", &parameters).await?;
        match found.items(&["imagesSet"]).first().and_then(|image| image.text(&["imageId"])) {
            Some(id) => bail!("the image {id} is called {name:?} already: choose another name by --name"),
            None => Ok(()),
        }
    }

    async fn create_volume(&mut self, size_gib: u64) -> anyhow::Result<String> {
        let (zone, size) = (self.region.zones()[0].to_string(), size_gib.to_string());
        let parameters = [("AvailabilityZone", &*zone), ("Size", &*size), ("VolumeType", "gp3")];
        let created = self.client.ec2(self.region, "CreateVolume", &parameters).await?;
        let id = created.text(&["volumeId"]).context("CreateVolume names no volume")?.to_owned();
        self.made.push(("DeleteVolume", "VolumeId", id.clone(), true));
        let deadline = Instant::now() + MAKE_MAX;
        loop {
            let parameters = [("VolumeId.1", &*id)];
            let answer = self.client.ec2(self.region, "DescribeVolumes", &parameters).await?;
            match answer.items(&["volumeSet"]).first().and_then(|volume| volume.text(&["status"])) {
                Some("available") => return Ok(id),
                Some("creating") if Instant::now() < deadline => self.pause().await?,
                other => bail!("the volume {id} was not made: it is {}", other.unwrap_or("gone")),
            }
        }
    }

    async fn write(&self, state: &Path, volume: &str, file: &Path) -> anyhow::Result<()> {
        let (folder, keys) = (state.join("volumes").join(volume), state.join("keys/volumes"));
        let (file, stop) = (file.to_owned(), Arc::clone(&self.stop));
        let write = move || {
            let keys = Some(Arc::new(KeyFile::new(keys)) as _);
            let volume = Volume::open_with(&folder, Stores { keys, objects: None })?;
            let progress = Progress::start(format!("importing {}", file.display()));
            let tell = |reached: Reached| progress.reach(reached.done_bytes, reached.total_bytes);
            import::import_into(&file, (&volume, &folder), &tell, &|| stop.is_up())?;
            progress.finish();
            Ok(())
        };
        tokio::task::spawn_blocking(write).await.context("the thread that copies failed")?
    }

    async fn create_snapshot(&mut self, volume: &str, name: &str) -> anyhow::Result<String> {
        let description = format!("Imported for {name}");
        let parameters = [("VolumeId", volume), ("Description", &*description)];
        let created = self.client.ec2(self.region, "CreateSnapshot", &parameters).await?;
        let id = created.text(&["snapshotId"]).context("CreateSnapshot names no snapshot")?.to_owned();
        // The volume goes after it.
        self.made.insert(0, ("DeleteSnapshot", "SnapshotId", id.clone(), false));
        let progress = Progress::start(format!("making snapshot {id}"));
        loop {
            let answer = self.client.ec2(self.region, "DescribeSnapshots", &[("SnapshotId.1", &*id)]).await?;
            let snapshot = answer.items(&["snapshotSet"]).first().context("the snapshot is gone")?;
            let percent =
                snapshot.text(&["progress"]).and_then(|text| text.trim_end_matches('%').parse().ok());
            progress.reach(percent.unwrap_or(0), 100);
            match snapshot.text(&["status"]) {
                Some("completed") => {
                    progress.finish();
                    return Ok(id);
                }
                Some("pending") => self.pause().await?,
                _ => bail!("{}", snapshot.text(&["statusMessage"]).unwrap_or("the snapshot was not made")),
            }
        }
    }

    async fn register(&self, args: &Args, name: &str, snapshot: &str) -> anyhow::Result<String> {
        let parameters = [
            ("Name", name),
            ("Description", &*args.description),
            ("Architecture", "x86_64"),
            ("VirtualizationType", "hvm"),
            ("EnaSupport", "true"),
            ("RootDeviceName", &*args.root_device),
            ("BlockDeviceMapping.1.DeviceName", &*args.root_device),
            ("BlockDeviceMapping.1.Ebs.SnapshotId", snapshot),
            ("BlockDeviceMapping.1.Ebs.VolumeType", "gp3"),
            ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true"),
        ];
        let given = parameters.into_iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>();
        let registered = self.client.ec2(self.region, "RegisterImage", &given).await?;
        Ok(registered.text(&["imageId"]).ok_or_else(|| anyhow!("RegisterImage names no image"))?.to_owned())
    }

    /// Removes what was made for the way, and if it did not lead there, everything.
    async fn clean_up(&self, is_done: bool) {
        for (action, parameter, id, _) in self.made.iter().filter(|(.., always)| *always || !is_done) {
            if let Err(error) = self.client.ec2(self.region, action, &[(parameter, id)]).await {
                eprintln!("nimbo: {id} is left over: {error:#}");
            }
        }
    }

    async fn pause(&self) -> anyhow::Result<()> {
        if self.stop.is_up() {
            bail!("it was stopped");
        }
        tokio::time::sleep(LOOK).await;
        Ok(())
    }
}
