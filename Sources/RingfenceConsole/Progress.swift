// SPDX-License-Identifier: Apache-2.0
import RingfencePlatform

/// How far something is, in a line on standard error that is written over: for a person who waits.
package struct Progress: Sendable {
    /// Whether standard error is a terminal: a file gets nothing of it.
    private let isShown: Bool

    package init(isShown: Bool = true) { self.isShown = isShown && isatty(2) == 1 }

    package func show(_ text: String) { write("\r\(text)\u{1B}[K") }

    package func end() { write("\r\u{1B}[K") }

    private func write(_ text: String) { if isShown { _ = Output.write(Array(text.utf8), to: 2) } }
}
