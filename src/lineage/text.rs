//! The audit trail for people.

use super::event::EventLine;

/// Text for people, oldest event first: when, which version, what.
#[must_use]
pub fn render(events: &[EventLine]) -> String {
    events.iter().map(|event| format!("{} {}\n", event.at, event.to_json())).collect()
}
