//! A temporary folder, which goes with its owner.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ulid::Ulid;

/// What still writes while it ends may make a folder anew that was just removed: so often it is tried.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// For its owner alone, for there is a token in it.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// # Errors
    /// The system's place for temporary files takes none.
    pub fn create() -> io::Result<Folder> {
        let path = std::env::temp_dir().join(format!("outport-demo-{}", Ulid::generate()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            match std::fs::remove_dir_all(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => std::thread::sleep(PAUSE),
                _ => return,
            }
        }
        eprintln!("outport: {} could not be removed", self.0.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_all_that_is_in_it() {
        let folder = Folder::create().unwrap();
        let path = folder.path().to_owned();
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::fs::write(path.join("a/b/c"), "text").unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
