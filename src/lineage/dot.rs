//! The versions as a graph, for `dot` of Graphviz: what stands on what, what was carried over and what was restored.

use std::fmt::Write as _;

use super::event::EventLine;
use super::story::{Story, stories};
use crate::store::record::VersionState;

/// The graph.
#[must_use]
pub fn render(events: &[EventLine], store: &str) -> String {
    let mut dot = format!("digraph {} {{\n", quoted(store));
    dot.push_str("  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n");
    for story in stories(events) {
        // Writing to a string can't fail.
        let _ = version(&mut dot, &story);
    }
    dot.push_str("}\n");
    dot
}

fn version(dot: &mut String, story: &Story<'_>) -> std::fmt::Result {
    let version = story.version;
    let mut label = format!("{version}\n{}", story.state_word());
    if let Some(message) = story.message {
        let _ = write!(label, "\n{}", shortened(message));
    }
    let tooltip = story.reason.map(super::text::why).unwrap_or_default();
    writeln!(dot, "  {version} [label={}, fillcolor=\"{}\", tooltip={}];", quoted(&label), colour(story.state), quoted(&tooltip))?;
    let edges = [(story.parent, ""), (story.carries, "carried over"), (story.restores, "restored")];
    for (from, label) in edges {
        match from {
            Some(from) if label.is_empty() => writeln!(dot, "  {from} -> {version};")?,
            Some(from) => writeln!(dot, "  {from} -> {version} [style=dashed, label=\"{label}\", constraint=false];")?,
            None => {}
        }
    }
    for tag in &story.tags {
        writeln!(
            dot,
            "  {0} [label={0}, shape=cds, fillcolor=\"#fff3bf\"];\n  {0} -> {version} [style=dotted, arrowhead=none];",
            quoted(tag)
        )?;
    }
    Ok(())
}

const fn colour(state: Option<VersionState>) -> &'static str {
    match state {
        Some(VersionState::Promoted) => "#8ce99a",
        Some(VersionState::Valid) => "#d3f9d8",
        Some(VersionState::Ghost) => "#ffa8a8",
        Some(VersionState::Open | VersionState::Checking) => "#ffec99",
        Some(VersionState::Superseded | VersionState::Expired | VersionState::Aborted) | None => "#e9ecef",
    }
}

fn shortened(text: &str) -> String {
    const WIDTH: usize = 40;
    if text.chars().count() <= WIDTH { text.to_owned() } else { text.chars().take(WIDTH - 1).chain(['…']).collect() }
}

/// A string of the dot language; control characters but newlines are left out.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '\n' => quoted.push_str("\\n"),
            '"' | '\\' => quoted.extend(['\\', character]),
            other if other.is_control() => {}
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
