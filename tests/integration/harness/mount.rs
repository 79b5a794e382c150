//! Small file systems of their own, to be filled up or turned read-only.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A file of a size as a file system of its own.
pub struct Loop {
    dir: TempDir,
    pub device: String,
}

impl Loop {
    /// `None`, with the reason on standard error, where mounting is not allowed.
    pub fn mount(size_bytes: u64, mkfs: &[&str]) -> Option<Loop> {
        let dir = TempDir::with_prefix("outport-disk-").expect("a folder");
        let (image, target) = (dir.path().join("image"), dir.path().join("mnt"));
        fs::File::create(&image).and_then(|file| file.set_len(size_bytes)).expect("a sparse file");
        fs::create_dir(&target).expect("a folder");
        let made = run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).args(mkfs).arg(&image));
        let attached = made.and_then(|_| run(Command::new("losetup").args(["--find", "--show"]).arg(&image)));
        let mounted = attached.and_then(|device| {
            let device = device.trim().to_owned();
            run(Command::new("mount").args(["-o", "errors=remount-ro", &device]).arg(&target)).map(|_| device)
        });
        match mounted {
            Ok(device) => Some(Loop { dir, device }),
            Err(reason) => {
                eprintln!("skipped: no loop file system can be mounted here: {reason}");
                None
            }
        }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// Takes all room but so many bytes.
    pub fn fill(&self, leave: u64) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = fs::File::create(&path).expect("a file");
        let block = vec![1; 64 * 1024];
        while self.free() > leave && file.write_all(&block).is_ok() {}
        path
    }

    /// Takes all room, to the last block.
    pub fn exhaust(&self) -> PathBuf {
        let path = self.fill(0);
        let mut file = fs::File::options().append(true).open(&path).expect("our own file");
        // What the file system had put aside for data that was not written yet is free again after a sync.
        for _ in 0..10 {
            while file.write_all(&[1; 4096]).is_ok() {}
            file.sync_all().expect("our own file");
        }
        path
    }

    /// Takes writes or refuses them from now on, as an operator's `mount -o remount` does.
    pub fn remount(&self, how: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(self.path())).expect("our own file system");
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).expect("a mounted file system");
        stat.f_bavail * stat.f_frsize
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Lazily, in case that a test failed with files open.
        for (program, arguments) in [("umount", vec!["-l"]), ("losetup", vec!["-d"])] {
            let target = if program == "umount" { self.path() } else { PathBuf::from(&self.device) };
            if let Err(reason) = run(Command::new(program).args(arguments).arg(target)) {
                eprintln!("{reason}");
            }
        }
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
}
