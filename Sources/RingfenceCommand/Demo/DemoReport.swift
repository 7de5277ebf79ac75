// SPDX-License-Identifier: Apache-2.0
//
// What the demo says: progress while it runs (one line that renews itself on a terminal, a plain line now and then
// elsewhere), a line for each thing done to a worker, and the books at the end, for people or as one JSON object.

import RingfenceConsole
import RingfencePlatform
import Synchronization

/// What has happened so far.
final class DemoTally: Sendable {
    struct Value: Sendable {
        var applied = 0
        var killed = 0
        var paused = 0
        /// Transfers given back to the queue from killed and paused workers.
        var redelivered = 0
    }

    private let state = Mutex(Value())

    var value: Value { state.withLock { $0 } }
    func applied(_ count: Int) { state.withLock { $0.applied = count } }

    func killed(redelivered: Int) {
        state.withLock { value in
            value.killed += 1
            value.redelivered += redelivered
        }
    }

    func paused(redelivered: Int) {
        state.withLock { value in
            value.paused += 1
            value.redelivered += redelivered
        }
    }
}

/// Prints while the demo runs.
final class DemoPrinter: Sendable {
    private let isSilent: Bool
    private let isTerminal: Bool
    private let start = ContinuousClock.now
    private let state = Mutex((lastPlain: ContinuousClock.now, hasLine: false))

    /// `isSilent`: for `--json`, whose reader wants the result only.
    init(isSilent: Bool) {
        self.isSilent = isSilent
        isTerminal = isatty(STDOUT_FILENO) == 1
    }

    /// A line that stays.
    func line(_ text: String) {
        guard !isSilent else { return }
        state.withLock { state in
            // A failure ends the demo (untilInterrupted), and is told at its end.
            try? put(state.hasLine ? "\r\u{1B}[K" + text : text)
            state.hasLine = false
        }
        try? Output.flush()
    }

    /// A line about something that was done to a worker.
    func story(_ text: String) {
        let seconds = Self.decimal((ContinuousClock.now - start).seconds)
        line(String(repeating: " ", count: max(0, 6 - seconds.count)) + seconds + " s  " + text)
    }

    /// The state of the work.
    func progress(done: Int, of total: Int, seconds: Double, tally: DemoTally.Value) {
        guard !isSilent else { return }
        let pace = seconds > 0 ? Int(Double(done) / seconds) : 0
        let figures =
            "\(Self.grouped(Int64(done))) of \(Self.grouped(Int64(total)))  \(Self.grouped(Int64(pace)))/s  "
            + "\(tally.killed) killed  \(tally.paused) paused"
        state.withLock { state in
            if isTerminal {
                let filled = 30 * done / max(1, total)
                let bar = String(repeating: "#", count: filled) + String(repeating: ".", count: 30 - filled)
                try? put("\r\u{1B}[K  [\(bar)] \(figures)", terminator: "")
                state.hasLine = true
            } else if ContinuousClock.now - state.lastPlain >= .seconds(2) {
                state.lastPlain = ContinuousClock.now
                try? put("  progress: \(figures)")
            }
        }
        try? Output.flush()
    }

    /// One digit after the point.
    static func decimal(_ value: Double) -> String {
        let tenths = Int64((value * 10).rounded())
        return "\(tenths / 10).\(tenths % 10)"
    }

    /// With commas between the thousands.
    static func grouped(_ number: Int64) -> String {
        var digits = String(number.magnitude)
        var groups: [Substring] = []
        while digits.count > 3 {
            groups.insert(digits.suffix(3), at: 0)
            digits.removeLast(3)
        }
        groups.insert(digits[...], at: 0)
        return (number < 0 ? "-" : "") + groups.joined(separator: ",")
    }

    /// Minor units as an amount with two decimals.
    static func money(_ minor: Int64) -> String {
        let cents = minor.magnitude % 100
        let whole = grouped(Int64(minor.magnitude / 100))
        return (minor < 0 ? "-" : "") + whole + (cents < 10 ? ".0" : ".") + "\(cents)"
    }
}

/// What came of a run.
struct DemoReport: Sendable {
    var settings: DemoRun.Settings
    var transfers: Int
    var accounts: Int
    var seconds: Double
    var tally: DemoTally.Value
    /// Late writes that the guard refused.
    var refused: Int
    var books: Reconciliation

    private var perSecond: Int { Int(Double(transfers) / max(0.001, seconds)) }
    private var appliedOnce: Int { transfers - books.missing.count - books.repeated.count }

    /// The books, for people.
    var text: String {
        func count(_ number: Int) -> String { DemoPrinter.grouped(Int64(number)) }
        let money = DemoPrinter.money
        var lines = [
            "",
            "Reconciled with the file:",
            "  applied exactly once    \(count(appliedOnce)) of \(count(transfers)) transfers"
                + (books.repeated.isEmpty ? "" : ", \(count(books.repeated.count)) applied more than once")
                + (books.missing.isEmpty ? "" : ", \(count(books.missing.count)) never"),
            "  total of all balances   \(money(books.totalBefore)) before, \(money(books.totalAfter)) after",
            "  wrong balances          \(count(books.wrongAccounts.count)) of \(count(accounts)) accounts",
        ]
        for wrong in books.wrongAccounts.prefix(3) {
            let found = wrong.found.map(money) ?? "nothing"
            lines.append("    \(wrong.name): \(found) instead of \(money(wrong.expected))")
        }
        lines.append("  late writes refused     \(settings.isUnsafe ? "none: no guard" : count(refused))")
        lines.append("")
        let harm =
            "\(count(tally.killed)) workers were killed and \(count(tally.paused)) paused"
            + (settings.isUnsafe ? " " : " past their lease ")
            + "(\(count(tally.redelivered)) transfers delivered twice)"
        let pace = "\(DemoPrinter.decimal(seconds)) s, \(count(perSecond)) a second"
        if books.isBalanced {
            lines.append("The books balance: every transfer was applied exactly once (\(pace)), while \(harm).")
        } else {
            let difference = books.totalAfter - books.totalBefore
            let total =
                difference == 0
                ? "the total is unchanged only by chance"
                : "\(money(abs(difference))) \(difference > 0 ? "came from nowhere" : "vanished")"
            lines.append("THE BOOKS DO NOT BALANCE: \(total) (\(pace)), while \(harm).")
            if settings.isUnsafe { lines.append("That is what --unsafe is for. Without it, the same run balances.") }
        }
        return lines.joined(separator: "\n")
    }

    /// The same as one JSON object.
    var json: String {
        let fields: [(String, String)] = [
            ("mode", settings.isUnsafe ? "\"unsafe\"" : "\"safe\""), ("balanced", "\(books.isBalanced)"),
            ("transfers", "\(transfers)"), ("accounts", "\(accounts)"), ("workers", "\(settings.workers)"),
            ("seconds", shortNumber(seconds)), ("transfersPerSecond", "\(perSecond)"),
            ("killed", "\(tally.killed)"), ("paused", "\(tally.paused)"), ("redelivered", "\(tally.redelivered)"),
            ("staleWritesRefused", "\(refused)"), ("appliedOnce", "\(appliedOnce)"),
            ("missing", "\(books.missing.count)"), ("repeated", "\(books.repeated.count)"),
            ("wrongAccounts", "\(books.wrongAccounts.count)"), ("totalBefore", "\(books.totalBefore)"),
            ("totalAfter", "\(books.totalAfter)"),
        ]
        return "{" + fields.map { "\"\($0.0)\":\($0.1)" }.joined(separator: ",") + "}"
    }
}
