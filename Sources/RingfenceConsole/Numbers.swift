// SPDX-License-Identifier: Apache-2.0

extension Duration {
    /// The whole duration in seconds.
    package var seconds: Double { Double(components.seconds) + Double(components.attoseconds) / 1e18 }
    /// The whole duration in milliseconds.
    package var milliseconds: Double { seconds * 1e3 }
    /// The whole duration in microseconds.
    package var microseconds: Double { seconds * 1e6 }
    /// The whole duration in nanoseconds.
    package var nanoseconds: Double { seconds * 1e9 }
}

/// Three significant digits after the point for small numbers, none for large ones; never an exponent.
package func shortNumber(_ value: Double) -> String {
    guard value.isFinite else { return "0" }
    if abs(value) >= 1000 { return String(Int64(value.rounded())) }
    let scale: Double = abs(value) >= 10 ? 10 : 1000
    let scaled = Int64((value * scale).rounded())
    let digits = scale == 10 ? 1 : 3
    let text = String(abs(scaled))
    let padded = String(repeating: "0", count: max(0, digits + 1 - text.count)) + text
    var result = (scaled < 0 ? "-" : "") + padded.dropLast(digits) + "." + padded.suffix(digits)
    while result.last == "0" { result.removeLast() }
    if result.last == "." { result.removeLast() }
    return result
}
