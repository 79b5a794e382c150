//! The steps. Each says what it does, does it, and fails where something else came out than it says.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use http::StatusCode;
use serde_json::{Value, json};

use super::DemoError;
use super::client::{Client, POSITION};
use super::image::Image;
use super::tale::Tale;
use super::world::{ORIGIN, RATE_MBIT_PER_S, REGIONS, UPSTREAM, World, one_way};
use crate::oci::Digest;

const MIB: usize = 1 << 20;
/// What comes by itself comes within this.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(10);
/// How many pull one image at once.
const CROWD: usize = 20;
/// New names that are pulled elsewhere with their 201.
const NAMES: u64 = 5;
/// Looks at the lag of a region that is cut off.
const LOOKS: usize = 4;
const LOOK_EVERY: Duration = Duration::from_millis(700);

/// A name in each region: what is pushed, and pulled elsewhere.
const APP: &str = "team/app";
/// What every region keeps.
const KEPT: &str = "everywhere/base";
const CUT_OFF: &str = "ap";
const TOGETHER: [&str; 2] = ["eu", "us"];

/// Tells the whole story. Afterwards the origin is stopped, and all else runs.
pub(super) async fn tell(world: &mut World, tale: &mut Tale<'_>) -> Result<(), DemoError> {
    start(world, tale).await?;
    let cached = pull_through(world, tale).await?;
    push_here_pull_there(world, tale).await?;
    move_tag(world, tale).await?;
    let kept = copy_bytes(world, tale).await?;
    let rivals = cut_off(world, tale, &kept).await?;
    heal(world, tale, &rivals).await?;
    stop_origin(world, tale, &cached).await
}

async fn start(world: &mut World, tale: &mut Tale<'_>) -> Result<(), DemoError> {
    tale.step("Three regions and an origin start in this process, each with an edge, a bucket and a disk of its own");
    let started = Instant::now();
    world.start().await?;
    for name in REGIONS {
        let peers = REGIONS.iter().filter(|peer| **peer != name).map(|peer| format!("{peer} {} ms", one_way(name, peer).as_millis()));
        let distances = peers.collect::<Vec<_>>().join(", ");
        let origin = one_way(name, ORIGIN).as_millis();
        tale.say(&format!("{name}  {}   one way to {distances}, the origin {origin} ms", world.client(name).base()));
    }
    tale.say(&format!("The links between them carry {RATE_MBIT_PER_S} Mbit/s; clients are beside their edges."));
    until("all regions see each other", async || are_level(world).await).await?;
    tale.time("until all regions see each other", started.elapsed(), "");
    Ok(())
}

/// Whether no region is behind another, or blind.
async fn are_level(world: &World) -> Result<bool, DemoError> {
    for name in REGIONS {
        for other in REGIONS.into_iter().filter(|other| *other != name) {
            if world.behind(name, other).await? != (0.0, 0.0) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

async fn pull_through(world: &World, tale: &mut Tale<'_>) -> Result<Image, DemoError> {
    tale.step("An image is pushed to the origin, and pulled through eu");
    let image = Image::noise(1, &[6 * MIB, 2 * MIB, MIB / 2]);
    world.client(ORIGIN).push("library/app", "1", &image).await?;
    let name = format!("{UPSTREAM}/library/app");
    let eu = world.client("eu");
    let beside = format!("{:.1} MiB, origin {} ms away", image.size_bytes() as f64 / MIB as f64, one_way("eu", ORIGIN).as_millis());
    tale.time("a cold pull through eu", eu.pull(&name, "1", &image).await?.took, &beside);
    tale.time("a warm pull", eu.pull(&name, "1", &image).await?.took, "from memory and disk");

    let crowded = Image::noise(2, &[4 * MIB, MIB]);
    world.client(ORIGIN).push("library/crowded", "1", &crowded).await?;
    let before = served(world).await?;
    let started = Instant::now();
    let crowd = (0..CROWD).map(|_| eu.pull("registry.example/library/crowded", "1", &crowded));
    try_join_all(crowd).await?;
    let took = started.elapsed();
    let transfers = served(world).await? - before;
    tale.time(&format!("{CROWD} cold pulls of another image at once"), took, &format!("{} blobs", crowded.blobs.len()));
    check(&format!("blobs that the origin sent for {CROWD} pulls"), crowded.blobs.len(), transfers as usize)?;
    tale.count(
        "blobs that the origin sent for them",
        transfers as usize,
        "blobs",
        &format!("{} were asked for", CROWD * crowded.blobs.len()),
    );
    Ok(image)
}

/// Blobs that the origin's edge has sent.
async fn served(world: &World) -> Result<f64, DemoError> {
    let found = world.metric(ORIGIN, "outport_requests_total", &[("route", "blob"), ("status", "200")]).await?;
    Ok(found.unwrap_or_default())
}

async fn push_here_pull_there(world: &World, tale: &mut Tale<'_>) -> Result<(), DemoError> {
    tale.step("New names are pushed to eu, and pulled in us and ap 0 ms after the 201");
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..NAMES {
        let (image, tag) = (Image::noise(100 + number, &[MIB / 2]), format!("new-{number}"));
        world.client("eu").push(APP, &tag, &image).await?;
        let pulls = ["us", "ap"].map(|region| world.client(region).pull(APP, &tag, &image));
        for (times, pulled) in times.iter_mut().zip(try_join_all(pulls).await?) {
            times.push(pulled.took);
        }
    }
    for (region, times) in ["us", "ap"].into_iter().zip(times) {
        let what = format!("the whole image in {region}, median of {NAMES}");
        tale.time(&what, median(times), &format!("link {} ms one way; {NAMES} of {NAMES} right", one_way("eu", region).as_millis()));
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

async fn move_tag(world: &World, tale: &mut Tale<'_>) -> Result<(), DemoError> {
    tale.step("A tag that all regions know is moved in eu");
    let versions = [201, 202, 203].map(|seed| Image::noise(seed, &[1_000]));
    world.client("eu").push(APP, "latest", &versions[0]).await?;
    for region in ["us", "ap"] {
        until_seen(world.client(region), "latest", versions[0].manifest.digest).await?;
    }
    until("all regions have heard of it", async || are_level(world).await).await?;

    let position = world.client("eu").push(APP, "latest", &versions[1]).await?;
    tale.say(&format!("The push was answered with its position, {position}: who presents it is told what holds there."));
    let moved = versions[1].manifest.digest;
    let told = ["us", "ap"].map(|region| moved_at(world.client(region), &position, moved));
    for (region, took) in ["us", "ap"].into_iter().zip(try_join_all(told).await?) {
        let distance = one_way("eu", region).as_millis();
        tale.time(&format!("the moved tag in {region}, with its position"), took, &format!("link {distance} ms one way"));
    }
    world.client("eu").push(APP, "latest", &versions[2]).await?;
    let seen = ["us", "ap"].map(|region| until_seen(world.client(region), "latest", versions[2].manifest.digest));
    for (region, took) in ["us", "ap"].into_iter().zip(try_join_all(seen).await?) {
        tale.time(&format!("until {region} sees it moved again, without"), took, "by following; follow_interval is 1 s");
    }
    Ok(())
}

/// How long one question takes with a position, to which there is one right answer.
async fn moved_at(client: &Client, position: &str, digest: Digest) -> Result<Duration, DemoError> {
    let started = Instant::now();
    let what = format!("the tag that was moved at {position}");
    let answer = client.manifest(APP, "latest", &[(POSITION, position)]).await?.expect(&what, StatusCode::OK)?;
    check(&what, digest, answer.digest())?;
    Ok(started.elapsed())
}

async fn until_seen(client: &Client, tag: &str, digest: Digest) -> Result<Duration, DemoError> {
    until(&format!("{APP}:{tag} is {digest}"), async || Ok(client.manifest(APP, tag, &[]).await?.digest() == digest)).await
}

async fn copy_bytes(world: &World, tale: &mut Tale<'_>) -> Result<Image, DemoError> {
    tale.step("An image is pushed to eu whose bytes every region keeps: replicate = \"all\"");
    let image = Image::noise(300, &[4 * MIB, MIB]);
    let layers: Vec<Digest> = image.blobs[1..].iter().map(|layer| layer.digest).collect();
    for layer in &layers {
        check("a region holds bytes before they are pushed", false, world.holds("us", layer).await?)?;
    }
    world.client("eu").push(KEPT, "1", &image).await?;
    let held = ["us", "ap"].map(|region| {
        let layers = &layers;
        until("all bytes are copied", async move || {
            let held = try_join_all(layers.iter().map(|layer| world.holds(region, layer))).await?;
            Ok(held.into_iter().all(|is_held| is_held))
        })
    });
    let (held, proven) = tokio::try_join!(try_join_all(held), wait_for_all(world.client("eu")))?;
    for (region, took) in ["us", "ap"].into_iter().zip(held) {
        let beside = format!("{} MiB, nobody asked for them there", image.size_bytes() / MIB);
        tale.time(&format!("until {region} holds the bytes itself"), took, &beside);
    }
    tale.time("until eu tells that all hold them", proven, "as for `outport wait`, a gate for pipelines");
    Ok(image)
}

/// How long a region takes to be sure that every region has the bytes that all shall keep.
async fn wait_for_all(client: &Client) -> Result<Duration, DemoError> {
    let started = Instant::now();
    let path = format!("/outport/v1/wait?image={KEPT}:1&regions=all&hold=bytes&timeout={}s", PATIENCE.as_secs());
    let receipt = client.get(&path, &[]).await?.expect("a wait for all regions", StatusCode::OK)?.json();
    let of_regions = receipt["regions"].as_array().into_iter().flatten();
    let complete = of_regions.filter(|region| region["complete"] == true).count();
    check("regions of which the receipt says that they hold all", REGIONS.len(), complete)?;
    Ok(started.elapsed())
}

/// What two sides pushed as one tag without having seen each other.
struct Rivals {
    here: Image,
    there: Image,
}

async fn cut_off(world: &World, tale: &mut Tale<'_>, kept: &Image) -> Result<Rivals, DemoError> {
    tale.step("ap is cut off: every link to it drops");
    world.cut_off(CUT_OFF);
    let pulled = world.client(CUT_OFF).pull(KEPT, "1", kept).await?;
    tale.time("ap pulls what was copied to it", pulled.took, &format!("from its {}", pulled.source));
    let answer = world.client(CUT_OFF).manifest(APP, "never-heard-of", &[]).await?;
    answer.expect("a pull of an unknown name in a region that is cut off", StatusCode::SERVICE_UNAVAILABLE)?;
    tale.say("ap is asked for a name that it does not know: 503, since it may be elsewhere; a 404 would be a guess.");
    let rivals = Rivals { here: Image::noise(401, &[200_000]), there: Image::noise(402, &[200_000]) };
    let started = Instant::now();
    world.client("eu").push(APP, "latest", &rivals.here).await?;
    tale.time("eu pushes team/app:latest", started.elapsed(), "acknowledged: a region needs no other");
    until_seen(world.client("us"), "latest", rivals.here.manifest.digest).await?;
    let started = Instant::now();
    world.client(CUT_OFF).push(APP, "latest", &rivals.there).await?;
    tale.time("ap pushes another team/app:latest", started.elapsed(), "acknowledged too");
    until_seen(world.client(CUT_OFF), "latest", rivals.there.manifest.digest).await?;
    watch_lag(world, tale).await?;
    Ok(rivals)
}

/// While a region is out of sight, the lag behind it grows and is never nothing.
async fn watch_lag(world: &World, tale: &mut Tale<'_>) -> Result<(), DemoError> {
    let pairs = TOGETHER.into_iter().flat_map(|name| [(name, CUT_OFF), (CUT_OFF, name)]).collect::<Vec<_>>();
    for (name, other) in &pairs {
        until("a region notices that it is blind", async || Ok(world.behind(name, other).await?.0 > 0.0)).await?;
    }
    let mut looks: Vec<Vec<f64>> = Vec::new();
    for number in 0..LOOKS {
        if number > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        looks.push(try_join_all(pairs.iter().map(async |(name, other)| Ok::<_, DemoError>(world.behind(name, other).await?.0))).await?);
    }
    for (at, (name, other)) in pairs.iter().enumerate() {
        let seen: Vec<f64> = looks.iter().map(|look| look[at]).collect();
        let shown = seen.iter().map(|seconds| format!("{seconds:.1}")).collect::<Vec<_>>().join(", ");
        tale.say(&format!("{name} says that it is behind {other} by {shown} s, since its last answer"));
        let grows = seen.iter().all(|seconds| *seconds > 0.0) && seen.is_sorted() && seen.first() < seen.last();
        check(&format!("the lag of {name} behind {other} grows and is never 0 ({shown})"), true, grows)?;
    }
    check("us and eu see each other as before", (0.0, 0.0), world.behind("us", "eu").await?)
}

async fn heal(world: &World, tale: &mut Tale<'_>, rivals: &Rivals) -> Result<(), DemoError> {
    tale.step("The links come back");
    let started = Instant::now();
    world.mend(CUT_OFF);
    // The later of two pushes that had not seen each other wins.
    let (winner, loser) = (rivals.there.manifest.digest, rivals.here.manifest.digest);
    let seen = try_join_all(REGIONS.map(|region| until_seen(world.client(region), "latest", winner))).await?;
    until("no region is behind", async || are_level(world).await).await?;
    tale.time("until team/app:latest is the same in all regions", seen.into_iter().max().unwrap_or_default(), "after the links came back");
    tale.time("until no region is behind another", started.elapsed(), "");
    let expected = json!([{ "name": format!("{APP}:latest"), "winner": winner.to_string(), "losers": [loser.to_string()] }]);
    for region in REGIONS {
        check(&format!("the conflicts that {region} lists"), &expected, &conflicts(world.client(region)).await?)?;
    }
    tale.say("eu, us and ap list the same conflict, on team/app:latest:");
    tale.say(&format!("  winner  {winner}   pushed in ap, later"));
    tale.say(&format!("  loser   {loser}   pushed in eu, still there by its digest"));
    for region in REGIONS {
        let lost = world.client(region).manifest(APP, &loser.to_string(), &[]).await?.expect("the loser by its digest", StatusCode::OK)?;
        check("the loser by its digest", loser, lost.digest())?;
        world.client(region).pull(APP, "latest", &rivals.there).await?;
    }
    tale.count("regions with the same winner", REGIONS.len(), "of 3", "all blobs pulled and compared");
    Ok(())
}

/// What a region lists as conflicts.
async fn conflicts(client: &Client) -> Result<Value, DemoError> {
    let listed = client.get("/outport/v1/conflicts", &[]).await?.expect("the list of conflicts", StatusCode::OK)?.json();
    let name = |found: &Value| format!("{}:{}", found["repository"].as_str().unwrap_or("?"), found["tag"].as_str().unwrap_or("?"));
    let told = |found: &Value| json!({ "name": name(found), "winner": found["winner"], "losers": found["losers"] });
    Ok(listed["conflicts"].as_array().into_iter().flatten().map(told).collect())
}

async fn stop_origin(world: &mut World, tale: &mut Tale<'_>, cached: &Image) -> Result<(), DemoError> {
    tale.step("The origin is stopped");
    world.stop_edge(ORIGIN).await;
    let name = format!("{UPSTREAM}/library/app");
    let eu = world.client("eu");
    let first = eu.pull(&name, "1", cached).await?;
    tale.time("eu pulls the origin's image", first.took, "the first to notice");
    let pulled = try_join_all((0..CROWD).map(|_| eu.pull(&name, "1", cached))).await?;
    let slowest = pulled.iter().map(|pulled| pulled.took).max().unwrap_or_default();
    let freshness = pulled.first().map_or("", |pulled| pulled.freshness.as_str());
    check("how fresh an answer is while the origin is away", "stale", freshness)?;
    tale.time(&format!("{CROWD} pull it at once, the slowest"), slowest, "answers say that the tag is stale");
    Ok(())
}

fn check<T: PartialEq + std::fmt::Debug>(what: &str, expected: T, found: T) -> Result<(), DemoError> {
    if expected == found { Ok(()) } else { Err(DemoError::wrong(what, format_args!("{expected:?}"), format_args!("{found:?}"))) }
}

/// How long it takes until something is so that comes by itself.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> Result<bool, DemoError>) -> Result<Duration, DemoError> {
    let started = Instant::now();
    while !is_so().await? {
        if started.elapsed() > PATIENCE {
            return Err(DemoError::wrong(what, format_args!("within {} s", PATIENCE.as_secs()), "not so"));
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Ok(started.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_out_otherwise_is_told_with_what_was_expected() {
        assert!(check("regions", 3, 3).is_ok());
        assert_eq!(check("regions", 3, 2).unwrap_err().to_string(), "regions\n  expected: 3\n  found:    2");
    }

    #[tokio::test]
    async fn what_comes_by_itself_is_waited_for_and_an_error_is_not() {
        let mut looks = 0;
        let waited = until("the third look", async || {
            looks += 1;
            Ok(looks == 3)
        });
        assert!(waited.await.unwrap() >= POLL_EVERY * 2);
        let failed = until("a figure", async || Err(DemoError::wrong("a figure", "one", "none"))).await;
        assert!(matches!(failed, Err(DemoError::Wrong { .. })));
    }
}
