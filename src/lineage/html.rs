//! The audit trail as one page that needs nothing else: no script, no font, no picture from anywhere.

use super::event::EventLine;
use super::story::{Story, stories};
use super::text;
use crate::store::record::Outcome;

const STYLE: &str = "\
:root{color-scheme:light dark;font:15px/1.45 system-ui,sans-serif}body{max-width:75rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid #8884}
.s{border-radius:.6rem;padding:.1rem .5rem;background:#8883;color:inherit}.promoted,.valid{background:#2b8a3e55}.ghost{background:#c92a2a66}
.open,.checking{background:#e6770055}.bad{color:#c92a2a}code,time{font-family:ui-monospace,monospace;font-size:.87em}
details>ul{margin:.3rem 0;padding-left:1.2rem}summary{cursor:pointer}";

/// The page. `store` is its title.
#[must_use]
pub fn render(events: &[EventLine], store: &str) -> String {
    let stories = stories(events);
    let rows: String = stories.iter().rev().map(row).collect();
    let log: String = events.iter().map(item).collect();
    let title = escaped(store);
    let (versions, count) = (stories.len(), events.len());
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Lineage of {title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n\
         <h1>Lineage of <code>{title}</code></h1>\n<p>{versions} versions, {count} events, newest version first.</p>\n\
         <table>\n<thead><tr><th>Version</th><th>State</th><th>On</th><th>Changes</th><th>What</th><th>Checks</th></tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table>\n\
         <h2>Events</h2>\n<details><summary>All {count}, oldest first</summary>\n<ul>\n{log}</ul>\n</details>\n</body>\n</html>\n"
    )
}

fn row(story: &Story<'_>) -> String {
    let version = story.version;
    let link = |version: crate::ids::VersionId| format!("<a href=\"#{version}\">{version}</a>");
    let state = story.state_word();
    let tags: String = story.tags.iter().map(|tag| format!(" <span class=\"s\">{}</span>", escaped(tag))).collect();
    let parent = story.parent.map(link).unwrap_or_default();
    let mut what = Vec::new();
    what.extend(story.message.map(escaped));
    what.extend(story.carries.map(|from| format!("carries the changes of {} over", link(from))));
    what.extend(story.restores.map(|from| format!("restores {}", link(from))));
    what.extend(story.reason.map(|reason| format!("<span class=\"bad\">{}</span>", escaped(&text::why(reason)))));
    what.extend((!story.writers.is_empty()).then(|| {
        let writers: Vec<_> = story.writers.iter().map(text::person).collect();
        format!("by {}", escaped(&writers.join(", ")))
    }));
    let events: String = story.events.iter().map(|event| item(event)).collect();
    let count = story.events.len();
    format!(
        "<tr id=\"{version}\"><td><b>{version}</b>{tags}</td><td><span class=\"s {state}\">{state}</span></td><td>{parent}</td>\
         <td>{}</td><td>{}<details><summary>{count} events</summary><ul>\n{events}</ul></details></td><td>{}</td></tr>\n",
        text::counts(&story.changes),
        what.join("<br>"),
        checks(story),
    )
}

/// How each check ended at last, and after how many attempts.
fn checks(story: &Story<'_>) -> String {
    let line = |(name, last): (&str, super::story::Attempt<'_>)| {
        let bad = last.outcome.is_failure() || matches!(last.outcome, Outcome::CouldNotStart { .. });
        let class = if bad { " class=\"bad\"" } else { "" };
        let attempts = story.attempts.iter().filter(|attempt| attempt.check == name).count();
        let attempts = if attempts > 1 { format!(", {attempts} attempts") } else { String::new() };
        format!("<span{class}>{}: {}{attempts}</span>", escaped(name), escaped(&text::ending(last.outcome)))
    };
    story.verdicts().into_iter().map(line).collect::<Vec<_>>().join("<br>")
}

fn item(event: &EventLine) -> String {
    let version = event.version.map(|version| format!("{version} ")).unwrap_or_default();
    let (at, sentence) = (escaped(&text::moment(&event.at)), escaped(&text::sentence(&event.what)));
    let digest = event.digest;
    format!("<li title=\"event {}, {digest}\"><time>{at}</time> {version}{sentence}</li>\n", event.seq)
}

/// Text that means nothing to a browser: names and messages come from anyone.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text::printable(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
