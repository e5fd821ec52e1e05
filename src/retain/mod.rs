//! Retention: which versions and ghosts have had their time (`plan`, pure), and how their bytes come free (`gc`).
//!
//! Expiry and sweep are apart. A version expires in one small transaction of the lifecycle: its record loses its root and the lineage
//! says so. What no record reaches any more is found and removed by a sweep, which can be stopped at any moment and taken up later.

pub mod gc;
mod pack;
pub mod plan;
#[cfg(test)]
mod tests;

pub use gc::{Collector, GcError, Leisure, Report, expire, sweep_is_due, swept};
pub use plan::{Expiry, Keep, Plan, plan};
