//! `outport repo`, `outport tag`, `outport lock` and `outport unlock`: what an edge has, what may be done to it, and taking it away.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::ask::{AskError, Edge, Shown};
use super::columns::{columns, in_query, list, word};

/// Items in one answer of the edge, and answers of one list.
const PAGE: usize = 500;
const MAX_PAGES: usize = 2_000;

/// Of what an attribute speaks, and its name at the edge.
const ATTRIBUTES: [(&str, &str); 4] =
    [("read", "readEnabled"), ("write", "writeEnabled"), ("delete", "deleteEnabled"), ("list", "listEnabled")];

#[derive(Debug, clap::Args)]
pub(super) struct Lock {
    /// A tag (NAME:TAG), a manifest (NAME@DIGEST) or a whole repository (NAME)
    target: String,
    /// Changing it: a tag is not moved, nothing is pushed to a repository, and nothing of it is deleted
    #[arg(long)]
    write: bool,
    /// Deleting it
    #[arg(long)]
    delete: bool,
    /// Reading it
    #[arg(long)]
    read: bool,
    /// Its place in lists
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Repo {
    /// List the repositories that you may see
    #[command(after_help = "Example:\n  outport repo list --edge https://registry.example.com")]
    List(Shown),
    /// Show a repository: times, counts, what may be done to it
    #[command(after_help = "Example:\n  outport repo show team/app")]
    Show(One),
    /// Delete a repository with all its tags and manifests
    #[command(after_help = "Example:\n  outport repo delete team/old --yes")]
    Delete(Deleted),
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Tag {
    /// List the tags of a repository
    #[command(after_help = "Example:\n  outport tag list team/app --newest")]
    List(List),
    /// Show a tag: its digest, times, what may be done to it
    #[command(after_help = "Example:\n  outport tag show team/app:v1")]
    Show(One),
    /// Take a tag away; its manifest stays
    #[command(after_help = "Example:\n  outport tag delete team/app:old")]
    Delete(One),
}

#[derive(Debug, clap::Args)]
pub(super) struct One {
    /// The repository (NAME) or the tag (NAME:TAG)
    target: String,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, clap::Args)]
pub(super) struct Deleted {
    /// The repository
    target: String,
    /// Do it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// The repository
    target: String,
    /// Those that were set last come first
    #[arg(long)]
    newest: bool,
    #[command(flatten)]
    shown: Shown,
}

pub(super) fn lock(config: Option<&Path>, arguments: &Lock) -> ExitCode {
    // As Azure's "write-enabled false" does, and most want.
    finish("lock", change(config, arguments, &["write", "delete"], false), arguments.shown.json, attributes_line)
}

pub(super) fn unlock(config: Option<&Path>, arguments: &Lock) -> ExitCode {
    finish("unlock", change(config, arguments, &["read", "write", "delete", "list"], true), arguments.shown.json, attributes_line)
}

pub(super) fn repo(config: Option<&Path>, command: &Repo) -> ExitCode {
    match command {
        Repo::List(shown) => finish("repo list", repositories(config, &shown.edge), shown.json, |answer| {
            list(&answer["repositories"]).iter().map(|name| format!("{}\n", word(name))).collect()
        }),
        Repo::Show(one) => finish("repo show", show(config, one, Kind::Repository), one.shown.json, repository_text),
        Repo::Delete(deleted) => finish("repo delete", delete_repository(config, deleted), deleted.shown.json, |answer| {
            let count = |name: &str| list(&answer[name]).len();
            format!("deleted: {} manifests, {} tags\n", count("manifestsDeleted"), count("tagsDeleted"))
        }),
    }
}

pub(super) fn tag(config: Option<&Path>, command: &Tag) -> ExitCode {
    match command {
        Tag::List(arguments) => finish("tag list", tags(config, arguments), arguments.shown.json, tags_text),
        Tag::Show(one) => finish("tag show", show(config, one, Kind::Tag), one.shown.json, |answer| tag_text(&answer["tag"])),
        Tag::Delete(one) => {
            let deleted = path(&one.target, Some(Kind::Tag)).and_then(|path| one.shown.edge.delete(config, &path));
            let told = deleted.map(|_| json!({ "deleted": one.target }));
            finish("tag delete", told, one.shown.json, |answer| format!("deleted: {}\n", word(&answer["deleted"])))
        }
    }
}

fn finish(command: &str, answer: Result<Value, AskError>, json: bool, text: impl Fn(&Value) -> String) -> ExitCode {
    match answer {
        Ok(answer) if json => println!("{answer}"),
        Ok(answer) => print!("{}", text(&answer)),
        Err(error) => {
            eprintln!("outport {command}: {error}");
            return error.exit_code();
        }
    }
    ExitCode::SUCCESS
}

/// What is named, and nothing else where something is; `usual` where nothing is.
fn change(config: Option<&Path>, arguments: &Lock, usual: &[&str], enabled: bool) -> Result<Value, AskError> {
    let named = [arguments.read, arguments.write, arguments.delete, arguments.list];
    let question = question(named, usual, enabled);
    let path = path(&arguments.target, None)?;
    let answer = arguments.shown.edge.change(config, &path, &question)?;
    // A repository's attributes stand at the top, others in what they are of.
    let of = ["tag", "manifest"].into_iter().map(|kind| &answer[kind]).find(|of| of.is_object()).unwrap_or(&answer);
    let mut told = of["changeableAttributes"].clone();
    told["target"] = json!(arguments.target);
    Ok(told)
}

fn question(named: [bool; 4], usual: &[&str], enabled: bool) -> Value {
    let is_any = named.iter().any(|named| *named);
    let mut question = json!({});
    for ((what, name), named) in ATTRIBUTES.into_iter().zip(named) {
        if if is_any { named } else { usual.contains(&what) } {
            question[name] = json!(enabled);
        }
    }
    question
}

fn show(config: Option<&Path>, one: &One, kind: Kind) -> Result<Value, AskError> {
    one.shown.edge.read(config, &path(&one.target, Some(kind))?)
}

fn delete_repository(config: Option<&Path>, deleted: &Deleted) -> Result<Value, AskError> {
    let path = path(&deleted.target, Some(Kind::Repository))?;
    if !deleted.yes {
        let answer = deleted.shown.edge.read(config, &path)?;
        let count = |name: &str| answer[name].as_u64().unwrap_or_default();
        let (manifests, tags) = (count("manifestCount"), count("tagCount"));
        return Err(AskError::Usage(format!("{manifests} manifests and {tags} tags would be deleted: say --yes")));
    }
    deleted.shown.edge.delete(config, &path)
}

fn repositories(config: Option<&Path>, edge: &Edge) -> Result<Value, AskError> {
    let found = pages(|last| {
        let answer = edge.read(config, &format!("/acr/v1/_catalog?n={PAGE}&last={}", in_query(last)))?;
        Ok(list(&answer["repositories"]).to_vec())
    })?;
    Ok(json!({ "repositories": found }))
}

/// By name; the newest first are put in order here, so that a list of many pages holds whatever is set meanwhile.
fn tags(config: Option<&Path>, arguments: &List) -> Result<Value, AskError> {
    let path = path(&arguments.target, Some(Kind::Repository))?;
    let (path, ns) = path.split_once('?').map_or((path.as_str(), String::new()), |(path, query)| (path, format!("&{query}")));
    let mut found = pages(|last| {
        let answer = arguments.shown.edge.read(config, &format!("{path}/_tags?n={PAGE}&last={}{ns}", in_query(last)))?;
        Ok(list(&answer["tags"]).to_vec())
    })?;
    if arguments.newest {
        found.sort_by(|one, other| word(&other["lastUpdateTime"]).cmp(word(&one["lastUpdateTime"])));
    }
    Ok(json!({ "tags": found }))
}

/// Pages until one is not full. What a list goes on behind is a name, or an object that has one.
fn pages(mut read: impl FnMut(&str) -> Result<Vec<Value>, AskError>) -> Result<Vec<Value>, AskError> {
    let (mut found, mut last) = (Vec::new(), String::new());
    for _ in 0..MAX_PAGES {
        let page = read(&last)?;
        let is_end = page.len() < PAGE;
        found.extend(page);
        let Some(end) = found.last().filter(|_| !is_end) else { break };
        last = end.as_str().unwrap_or_else(|| word(&end["name"])).to_owned();
    }
    Ok(found)
}

/// What a text names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Repository,
    Tag,
    Manifest,
}

/// Where the edge has what the text names, which must be of this kind, if any is given. A first component with a port is an upstream's
/// name, which no repository can have.
fn path(target: &str, kind: Option<Kind>) -> Result<String, AskError> {
    let (name, of, reference) = match target.split_once('@') {
        Some((name, digest)) => (name, Kind::Manifest, format!("/_manifests/{digest}")),
        None => match target.rsplit_once(':') {
            // A colon after the last slash begins a tag; one before it, a port.
            Some((name, tag)) if !tag.contains('/') => (name, Kind::Tag, format!("/_tags/{tag}")),
            _ => (target, Kind::Repository, String::new()),
        },
    };
    match kind {
        Some(Kind::Repository) if of != Kind::Repository => return Err(AskError::Usage(format!("{target}: name a repository"))),
        Some(Kind::Tag) if of != Kind::Tag => return Err(AskError::Usage(format!("{target}: name a tag, as in team/app:v1"))),
        _ => {}
    }
    let (name, ns) = match name.split_once('/') {
        Some((first, rest)) if first.contains(':') => (rest, format!("?ns={}", in_query(first))),
        _ => (name, String::new()),
    };
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-:".contains(&byte));
    if name.is_empty() || !is_plain(name) || !is_plain(&reference) {
        return Err(AskError::Usage(format!("{target}: name a repository, a tag (NAME:TAG) or a manifest (NAME@DIGEST)")));
    }
    Ok(format!("/acr/v1/{name}{reference}{ns}"))
}

/// What may not be done.
fn locked(attributes: &Value) -> String {
    let off: Vec<&str> = ATTRIBUTES.into_iter().filter(|(_, name)| attributes[*name] == false).map(|(what, _)| what).collect();
    if off.is_empty() { "nothing".to_owned() } else { off.join(", ") }
}

fn attributes_line(told: &Value) -> String {
    format!("{}: locked against {}\n", word(&told["target"]), locked(told))
}

fn repository_text(answer: &Value) -> String {
    let number = |name: &str| answer[name].as_u64().unwrap_or_default().to_string();
    rows([
        ("repository", word(&answer["imageName"]).to_owned()),
        ("created", word(&answer["createdTime"]).to_owned()),
        ("updated", word(&answer["lastUpdateTime"]).to_owned()),
        ("manifests", number("manifestCount")),
        ("tags", number("tagCount")),
        ("locked", locked(&answer["changeableAttributes"])),
    ])
}

fn tag_text(tag: &Value) -> String {
    rows([
        ("tag", word(&tag["name"]).to_owned()),
        ("digest", word(&tag["digest"]).to_owned()),
        ("created", word(&tag["createdTime"]).to_owned()),
        ("updated", word(&tag["lastUpdateTime"]).to_owned()),
        ("locked", locked(&tag["changeableAttributes"])),
    ])
}

fn tags_text(answer: &Value) -> String {
    let heads = ["TAG", "DIGEST", "UPDATED", "LOCKED"].map(str::to_owned);
    let row = |tag: &Value| {
        let text = |name: &str| word(&tag[name]).to_owned();
        [text("name"), text("digest"), text("lastUpdateTime"), locked(&tag["changeableAttributes"])]
    };
    let all: Vec<[String; 4]> = std::iter::once(heads).chain(list(&answer["tags"]).iter().map(row)).collect();
    columns(&all)
}

fn rows<const N: usize>(pairs: [(&str, String); N]) -> String {
    columns(&pairs.map(|(name, value)| [name.to_owned(), value]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_a_repository_a_tag_or_a_manifest() {
        let digest = crate::oci::Digest::sha256(b"x");
        let manifest = (format!("team/app@{digest}"), format!("/acr/v1/team/app/_manifests/{digest}"));
        for (target, expected) in [
            ("team/app", "/acr/v1/team/app"),
            ("team/app:v1.0", "/acr/v1/team/app/_tags/v1.0"),
            ("registry.local:5000/a", "/acr/v1/a?ns=registry.local%3A5000"),
            ("registry.local:5000/a:v1", "/acr/v1/a/_tags/v1?ns=registry.local%3A5000"),
            (&manifest.0, &manifest.1),
        ] {
            assert_eq!(path(target, None).unwrap(), expected, "{target}");
        }
        assert!(path("team/app:v1", Some(Kind::Repository)).is_err() && path("team/app", Some(Kind::Tag)).is_err());
        for target in ["", ":v1", "a b", "a?x=y", "a@x y", "a:b#c"] {
            assert!(path(target, None).is_err(), "{target}");
        }
    }

    #[test]
    fn a_lock_changes_what_is_named_or_what_is_usual() {
        let nothing = [false; 4];
        assert_eq!(question(nothing, &["write", "delete"], false), json!({"writeEnabled": false, "deleteEnabled": false}));
        assert_eq!(question([true, false, false, true], &["write"], false), json!({"readEnabled": false, "listEnabled": false}));
        assert_eq!(question([false, true, false, false], &["read"], true), json!({"writeEnabled": true}));
    }

    #[test]
    fn pages_are_read_until_one_is_not_full() {
        let all: Vec<Value> = (0..PAGE + 3).map(|number| json!({ "name": format!("{number:05}") })).collect();
        let mut asked = Vec::new();
        let found = pages(|last| {
            asked.push(last.to_owned());
            Ok(all.iter().filter(|item| word(&item["name"]) > last || last.is_empty()).take(PAGE).cloned().collect())
        });
        assert_eq!((found.unwrap().len(), asked), (PAGE + 3, vec![String::new(), format!("{:05}", PAGE - 1)]));
    }

    #[test]
    fn what_is_locked_is_named() {
        let attributes = json!({"readEnabled": true, "writeEnabled": false, "deleteEnabled": false, "listEnabled": true});
        let tag =
            json!({"name": "v1", "digest": "sha256:0", "createdTime": "c", "lastUpdateTime": "u", "changeableAttributes": attributes});
        let shown = tags_text(&json!({"tags": [tag]}));
        assert_eq!(shown, "TAG  DIGEST    UPDATED  LOCKED\nv1   sha256:0  u        write, delete\n");
        let mut told = attributes;
        told["target"] = json!("team/app:v1");
        assert_eq!(attributes_line(&told), "team/app:v1: locked against write, delete\n");
        assert_eq!(locked(&json!({})), "nothing");
    }
}
