//! The story that `outport demo` tells comes out as it says.

use outport::cli::demo::{Folder, perform};

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_the_demo_comes_out_right_and_leaves_nothing() {
    let folder = Folder::create().expect("a temporary folder");
    let path = folder.path().to_owned();
    let mut told = Vec::new();
    let outcome = perform(&folder, &mut told).await;
    let told = String::from_utf8(told).expect("text");
    let played = outcome.unwrap_or_else(|error| panic!("{told}\n{error}"));
    let rows = played.rows.clone();
    played.stop().await;

    let mut steps: Vec<usize> = rows.iter().map(|row| row.step).collect();
    steps.dedup();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7, 8], "{told}");
    let value = |start: &str| rows.iter().find(|row| row.what.starts_with(start)).map(|row| row.value).expect(start);
    // Three blobs, however many pull them.
    assert_eq!(value("blobs that the origin sent"), 3.0, "{told}");
    assert_eq!(value("regions with the same winner"), 3.0, "{told}");
    // What is far away takes as long as the way is, there and back; what is here does not.
    assert!(value("a cold pull through eu") >= 40.0, "{told}");
    assert!(value("the whole image in us") >= 80.0 && value("the whole image in ap") >= 140.0, "{told}");
    // Sooner than a question that waits for news is over: what came by way of another region counts too.
    assert!(value("until no region is behind") < 8_000.0, "{told}");
    assert!(rows.iter().all(|row| row.unit != "ms" || row.value < 20_000.0), "{told}");
    for part in ["winner  sha256:", "loser   sha256:", "ap says that it is behind eu by", "Every step came out right"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    drop(folder);
    assert!(!path.exists());
}
