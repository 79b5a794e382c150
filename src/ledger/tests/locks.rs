//! What each attribute of a lock forbids, and what it leaves.

use super::*;
use crate::ledger::Attributes;

const READ_ONLY: Attributes = Attributes { read: true, write: false, delete: true, list: true };
const KEPT: Attributes = Attributes { read: true, write: true, delete: false, list: true };
const HIDDEN: Attributes = Attributes { read: false, write: true, delete: true, list: false };

fn untag(of: &str) -> Vec<Event> {
    vec![Event::untag(name("app"), tag(of))]
}

fn delete(image_name: &str) -> Vec<Event> {
    vec![Event::delete(name("app"), digest(image_name), ContentKind::Manifest)]
}

async fn refuses(ledger: &Ledger, events: Vec<Event>, what: &str) {
    assert_eq!(rejected(ledger, events.clone()).await, Rejected::Locked(what.to_owned()), "{events:?}");
}

#[tokio::test(start_paused = true)]
async fn row_62_a_tag_that_may_be_written_or_deleted_alone_is_not_deleted() {
    let ledger = one_node();
    ledger.append(tagged("v1", "release")).await.unwrap();
    for (attributes, is_moved) in [(READ_ONLY, false), (KEPT, true), (Attributes::LOCKED, false)] {
        let is = ledger.tag(&name("app"), &tag("release")).unwrap().unwrap().digest;
        ledger.append(vec![Event::lock_tag(name("app"), tag("release"), is, attributes)]).await.unwrap();
        let entry = ledger.tag(&name("app"), &tag("release")).unwrap().unwrap();
        assert_eq!((entry.attributes, entry.is_locked), (attributes, true));
        refuses(&ledger, untag("release"), "app:release").await;
        refuses(&ledger, vec![Event::delete(name("app"), is, ContentKind::Manifest)], "app:release").await;
        let image_name = if is == digest("v1") { "v2" } else { "v1" };
        if is_moved {
            ledger.append(tagged(image_name, "release")).await.unwrap();
            // What it is now is kept.
            refuses(&ledger, delete(image_name), "app:release").await;
        } else {
            refuses(&ledger, tagged(image_name, "release"), "app:release").await;
        }
    }
    // A lock that somebody else overtook says so, and so does one of nothing.
    let stale = Event::lock_tag(name("app"), tag("release"), digest("v3"), KEPT);
    assert_eq!(rejected(&ledger, vec![stale]).await, Rejected::Moved(tag("release")));
    let nothing = Event::lock_tag(name("app"), tag("none"), digest("v1"), KEPT);
    assert_eq!(rejected(&ledger, vec![nothing]).await, Rejected::TagUnknown(tag("none")));
    let nothing = Event::lock_manifest(name("app"), digest("none"), KEPT);
    assert_eq!(rejected(&ledger, vec![nothing]).await, Rejected::ManifestUnknown(digest("none")));
}

#[tokio::test(start_paused = true)]
async fn row_62_a_locked_manifest_stays_and_its_tags_are_free() {
    let ledger = one_node();
    ledger.append(tagged("v1", "latest")).await.unwrap();
    for attributes in [READ_ONLY, KEPT, Attributes::LOCKED] {
        ledger.append(vec![Event::lock_manifest(name("app"), digest("v1"), attributes)]).await.unwrap();
        assert_eq!(ledger.manifest(&name("app"), &digest("v1")).unwrap().unwrap().attributes, attributes);
        refuses(&ledger, delete("v1"), &format!("app@{}", digest("v1"))).await;
    }
    ledger.append(tagged("v2", "latest")).await.unwrap();
    ledger.append(untag("latest")).await.unwrap();
    assert_eq!(ledger.lock_against_deletion(&name("app")).unwrap(), Some(format!("app@{}", digest("v1"))));
    ledger.append(vec![Event::lock_manifest(name("app"), digest("v1"), Attributes::default())]).await.unwrap();
    assert_eq!(ledger.lock_against_deletion(&name("app")).unwrap(), None);
    ledger.append(delete("v1")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn row_62_nothing_comes_into_a_locked_repository_and_nothing_in_it_is_unlocked() {
    let ledger = one_node();
    ledger.append(tagged("v1", "latest")).await.unwrap();
    ledger.append(vec![Event::lock_repository(name("app"), READ_ONLY)]).await.unwrap();
    for events in [
        vec![manifest("app", "v2", image(&[]))],
        delete("v1"),
        vec![Event::lock_manifest(name("app"), digest("v1"), HIDDEN)],
        vec![Event::lock_tag(name("app"), tag("latest"), digest("v1"), HIDDEN)],
    ] {
        refuses(&ledger, events, "app").await;
    }
    refuses(&ledger, vec![Event::tag(name("app"), tag("new"), digest("v1"))], "app:new").await;
    refuses(&ledger, untag("latest"), "app:latest").await;
    // The same again is no change.
    ledger.append(tagged("v1", "latest")).await.unwrap();
    ledger.append(vec![Event::lock_repository(name("app"), KEPT)]).await.unwrap();
    ledger.append(tagged("v2", "latest")).await.unwrap();
    refuses(&ledger, untag("latest"), "app:latest").await;
    refuses(&ledger, delete("v1"), "app").await;
    assert_eq!(ledger.lock_against_deletion(&name("app")).unwrap().as_deref(), Some("app"));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_listed_is_left_out_and_a_lock_goes_with_what_it_was_on() {
    let ledger = one_node();
    for (image_name, as_tag) in [("v1", "a"), ("v2", "b")] {
        ledger.append(tagged(image_name, as_tag)).await.unwrap();
    }
    let listed = |ledger: &Ledger| -> Vec<String> {
        ledger.listed_tags(&name("app"), None, 10).unwrap().iter().map(|entry| entry.tag.to_string()).collect()
    };
    ledger.append(vec![Event::lock_tag(name("app"), tag("a"), digest("v1"), HIDDEN)]).await.unwrap();
    assert_eq!((listed(&ledger), ledger.tags(&name("app"), None, 10).unwrap().len()), (vec!["b".to_owned()], 2));
    assert_eq!(ledger.listed_tags(&name("app"), None, 1).unwrap().len(), 1, "a page is full of what is listed");
    ledger.append(untag("a")).await.unwrap();
    ledger.append(tagged("v1", "a")).await.unwrap();
    assert_eq!(listed(&ledger), ["a", "b"]);
    ledger.append(vec![Event::lock_manifest(name("app"), digest("v1"), HIDDEN)]).await.unwrap();
    ledger.append(delete("v1")).await.unwrap();
    ledger.append(tagged("v1", "a")).await.unwrap();
    assert_eq!(ledger.manifest(&name("app"), &digest("v1")).unwrap().unwrap().attributes, Attributes::default());
    ledger.append(vec![Event::lock_repository(name("app"), HIDDEN)]).await.unwrap();
    assert_eq!((ledger.repositories(None, 10).unwrap().len(), ledger.listed_repositories(None, 10).unwrap().len()), (1, 0));
    assert_eq!((ledger.attributes(&name("app")).unwrap(), ledger.attributes(&name("none")).unwrap()), (HIDDEN, Attributes::default()));
}

#[tokio::test(start_paused = true)]
async fn row_62_what_was_locked_stays_though_another_region_deletes_it_meanwhile() {
    let store = store();
    let (eu, us) = (region(&store, "eu", INCARNATION), region(&store, "us", "01ARZ3NDEKTSV4RRFFQ69G5FAX"));
    for as_tag in ["kept", "fixed"] {
        eu.append(tagged("v1", as_tag)).await.unwrap();
    }
    eu.append(vec![manifest("app", "v2", image(&[]))]).await.unwrap();
    carry(&eu, &us).await;
    for (as_tag, attributes) in [("kept", KEPT), ("fixed", READ_ONLY)] {
        let mut locking = vec![Event::lock_tag(name("app"), tag(as_tag), digest("v1"), attributes)];
        locking.extend(tagged("v1", as_tag));
        eu.append(locking).await.unwrap();
    }
    eu.append(vec![Event::lock_manifest(name("app"), digest("v2"), KEPT), manifest("app", "v2", image(&[]))]).await.unwrap();
    for events in [delete("v2"), delete("v1")] {
        us.append(events).await.unwrap();
    }
    carry(&eu, &us).await;
    carry(&us, &eu).await;
    for ledger in [&eu, &us] {
        for as_tag in ["kept", "fixed"] {
            let entry = ledger.tag(&name("app"), &tag(as_tag)).unwrap().unwrap();
            assert_eq!((entry.digest, entry.is_locked), (digest("v1"), true), "{as_tag} in {}", ledger.origin());
            refuses(ledger, untag(as_tag), &format!("app:{as_tag}")).await;
        }
        for image_name in ["v1", "v2"] {
            assert!(ledger.manifest(&name("app"), &digest(image_name)).unwrap().is_some(), "{image_name} in {}", ledger.origin());
        }
        assert_eq!(ledger.tags(&name("app"), None, 10).unwrap().len(), 2);
        refuses(ledger, delete("v2"), &format!("app@{}", digest("v2"))).await;
    }
}
