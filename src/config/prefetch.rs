//! `[[prefetch]]`: images that are kept here, whoever asks for them or nobody.

use std::time::Duration;

use super::Upstream;
use super::reader::Section;
use super::schema::{DAY, MINUTE, seconds};
use crate::oci::{Image, is_platform};

/// Images of which what is missing is fetched from time to time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// Each as people write it, with its upstream's name in front.
    pub images: Vec<String>,
    /// `os/architecture`; `None`: all.
    pub platform: Option<String>,
    pub every: Duration,
}

/// Images of one table, at most.
const MAX_IMAGES: usize = 1_000;

pub(super) fn read(root: &mut Section<'_, '_, '_>, upstreams: &[Upstream]) -> Vec<Prefetch> {
    root.sections("prefetch").into_iter().map(|section| read_one(section, upstreams)).collect()
}

fn read_one(mut section: Section<'_, '_, '_>, upstreams: &[Upstream]) -> Prefetch {
    let images: Vec<String> = section.list("images");
    if images.is_empty() {
        section.fault("images", "is missing: name images, each with its upstream's name in front");
    } else if images.len() > MAX_IMAGES {
        section.fault("images", format!("has more than {MAX_IMAGES} images"));
    }
    for (index, image) in images.iter().enumerate() {
        if let Err(why) = judge(image, upstreams) {
            section.fault_at("images", index, why);
        }
    }
    let platform: Option<String> = section.optional("platform");
    if platform.as_deref().is_some_and(|platform| !is_platform(platform)) {
        section.fault("platform", "is not os/architecture, as in \"linux/arm64\"");
    }
    let every = section.bounded("every", seconds(10 * MINUTE), seconds(1)..=seconds(30 * DAY));
    section.finish();
    Prefetch { images, platform, every }
}

fn judge(text: &str, upstreams: &[Upstream]) -> Result<(), String> {
    let image: Image = text.parse().map_err(|why| format!("{text:?} is no {why}"))?;
    let prefix = image.ns.as_deref().unwrap_or_else(|| image.name.first_component());
    if upstreams.iter().any(|upstream| upstream.name == prefix || upstream.path_prefix() == prefix) {
        return Ok(());
    }
    Err(format!("{text:?} begins with the name of no upstream of this configuration"))
}

#[cfg(test)]
mod tests {
    use crate::config::tests::{faults, parse};

    const UPSTREAM: &str = "[[upstream]]\nname = \"registry.local:5000\"\nurl = \"https://registry.local:5000\"\n";

    #[test]
    fn images_of_upstreams_are_kept() {
        let text = format!(
            "{UPSTREAM}[[prefetch]]\nimages = [\"registry.local:5000/a:1\", \"registry.local_5000/b\"]\nplatform = \"linux/arm64\""
        );
        let lists = parse(&text).unwrap().prefetch;
        assert_eq!((lists[0].images.len(), lists[0].every.as_secs()), (2, 600));
    }

    #[test]
    fn what_is_wrong_with_a_list_is_told_with_its_key() {
        for (lines, expected) in [
            ("", "prefetch[0].images: is missing: name images, each with its upstream's name in front"),
            (
                "images = [\"team/app:1\"]",
                "prefetch[0].images[0]: \"team/app:1\" begins with the name of no upstream of this configuration",
            ),
            ("images = [\"A\"]", "prefetch[0].images[0]: \"A\" is no image: "),
            (
                "images = [\"registry.local:5000/a\"]\nplatform = \"linux\"",
                "prefetch[0].platform: is not os/architecture, as in \"linux/arm64\"",
            ),
            ("images = [\"registry.local:5000/a\"]\nevery = \"10ms\"", "prefetch[0].every: \"10ms\" is out of bounds: \"1s\" to \"30d\""),
        ] {
            let found = faults(&format!("{UPSTREAM}[[prefetch]]\n{lines}"));
            assert!(found.len() == 1 && found[0].contains(expected), "{lines}: {found:?}");
        }
    }
}
