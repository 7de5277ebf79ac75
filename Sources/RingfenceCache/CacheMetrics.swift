// SPDX-License-Identifier: Apache-2.0

import CoreMetrics

/// The metrics of caches, made with each from the factory in force then.
struct CacheMetrics: Sendable {
    /// Calls that did not find enough nodes, or no primary: watch this one.
    let failed = Counter(label: "ringfence_cache_failed_total")
    /// Writes at a primary that too few replicas acknowledged in time.
    let notConfirmed = Counter(label: "ringfence_cache_not_confirmed_total")
    /// Nodes that were behind when a key was read, and were handed the newest value.
    let repairs = Counter(label: "ringfence_cache_repairs_total")
    /// Writes that met a newer version and were written again above it: many of them mean clocks that differ.
    let again = Counter(label: "ringfence_cache_rewrites_total")
    /// Keys noted for a node that missed them.
    let hints = Counter(label: "ringfence_cache_hints_total")
    /// Keys that could not be noted any more: the node that misses them gets them when it is completed.
    let hintsDropped = Counter(label: "ringfence_cache_hints_dropped_total")
    /// Keys that were handed over, by why.
    func copied(_ count: Int64, _ reason: String) {
        Counter(label: "ringfence_cache_copied_total", dimensions: [("reason", reason)]).increment(by: count)
    }
}
