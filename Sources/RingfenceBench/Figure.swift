// SPDX-License-Identifier: Apache-2.0
//
// What a benchmark says: figures with a unit, a reference measured in the same minute, and the bar they have to pass.
// Medians everywhere, and the ratio is the median of the ratios of the rounds, not the ratio of two medians: on a
// machine whose speed changes from minute to minute, neighbours in time are the only fair comparison.
import RingfenceConsole

/// One measured figure.
struct Figure: Sendable {
    /// What a figure has to be for the project to call itself fast enough.
    enum Bar: Sendable {
        case ratioAtLeast(Double)
        case valueAtMost(Double)
        case ratioAtMost(Double)
        case bothAtMost(value: Double, ratio: Double)
        /// In ms.
        case percentilesAtMost(p50: Double, p99: Double)
    }

    var name: String
    var unit: String
    var value: Double
    var reference: Double?
    var ratio: Double?
    var trials: Int
    var p50: Double?
    var p99: Double?
    var bar: Bar?

    /// Whether the bar is passed; nil: there is none.
    var passes: Bool? {
        switch bar {
        case .ratioAtLeast(let least): ratio.map { $0 >= least }
        case .ratioAtMost(let most): ratio.map { $0 <= most }
        case .valueAtMost(let most): value <= most
        case .bothAtMost(let most, let mostRatio): ratio.map { value <= most && $0 <= mostRatio }
        case .percentilesAtMost(let most50, let most99):
            if let p50, let p99 { p50 <= most50 * 1000 && p99 <= most99 * 1000 } else { nil }
        case nil: nil
        }
    }

    /// The bar in a few characters; nil: there is none.
    private var bound: String? {
        switch bar {
        case .ratioAtLeast(let least): "ratio >= \(shortNumber(least))"
        case .ratioAtMost(let most): "ratio <= \(shortNumber(most))"
        case .valueAtMost(let most): "<= \(shortNumber(most)) \(unit)"
        case .bothAtMost(let most, let mostRatio): "<= \(shortNumber(most)), \(shortNumber(mostRatio))"
        case .percentilesAtMost(let most50, let most99): "<= \(shortNumber(most50)), \(shortNumber(most99)) ms"
        case nil: nil
        }
    }

    /// One JSON object without a line break; what does not apply is left out.
    var json: String {
        var fields = ["\"figure\":\"\(name)\"", "\"unit\":\"\(unit)\"", "\"value\":\(shortNumber(value))"]
        let optional = [("reference", reference), ("ratio", ratio), ("p50", p50), ("p99", p99)]
        for (key, value) in optional.prefix(2) {
            if let value { fields.append("\"\(key)\":\(shortNumber(value))") }
        }
        fields.append("\"trials\":\(trials)")
        for (key, value) in optional.dropFirst(2) {
            if let value { fields.append("\"\(key)\":\(shortNumber(value))") }
        }
        if let bound { fields.append("\"bar\":\"\(bound)\"") }
        if let passes { fields.append("\"met\":\(passes)") }
        return "{" + fields.joined(separator: ",") + "}"
    }

    /// A line of the table for people; `header` has its columns.
    var row: String {
        let mark =
            switch passes {
            case true: "pass"
            case false: "FAIL"
            case nil: ""
            }
        return Self.columns(
            name, "\(shortNumber(value)) \(unit)", reference.map(shortNumber) ?? "", ratio.map(shortNumber) ?? "",
            bound ?? "reported", mark)
    }

    static let header = columns("figure", "value", "reference", "ratio", "bar", "")

    private static func columns(_ texts: String...) -> String {
        let widths = [30, 22, 12, 8, 18, 4]
        var line = ""
        for (text, width) in zip(texts, widths) {
            line += text + String(repeating: " ", count: max(1, width - text.count))
        }
        while line.last == " " { line.removeLast() }
        return line
    }
}

/// Order statistics.
enum Statistics {
    /// The value below which `fraction` of the values lie (nearest rank); nil without values.
    static func percentile<Value: Comparable>(_ values: [Value], _ fraction: Double) -> Value? {
        guard !values.isEmpty else { return nil }
        let rank = Int((fraction * Double(values.count)).rounded(.up))
        return values.sorted()[min(max(rank, 1), values.count) - 1]
    }

    /// The middle value, or the mean of the two in the middle; 0 without values.
    static func median(_ values: [Double]) -> Double {
        guard !values.isEmpty else { return 0 }
        let sorted = values.sorted()
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }
}

/// Rounds of a reference and of ours, turn about.
struct Rounds: Sendable {
    var references: [Double] = []
    var values: [Double] = []

    /// Median over the rounds of ours to the reference beside it.
    var ratio: Double { Statistics.median(zip(values, references).map { $1 > 0 ? $0 / $1 : 0 }) }

    /// Measures the two alternately, `count` times each. Which one begins alternates too, so that neither always runs
    /// on a machine the other has just warmed up.
    static func alternate(
        _ count: Int, reference: () async throws -> Double, ours: () async throws -> Double
    ) async throws -> Rounds {
        var rounds = Rounds()
        for round in 0..<count {
            if round.isMultiple(of: 2) {
                rounds.references.append(try await reference())
                rounds.values.append(try await ours())
            } else {
                rounds.values.append(try await ours())
                rounds.references.append(try await reference())
            }
        }
        return rounds
    }
}

extension Figure {
    /// Of times in ms: what has to pass the bar is the 99th percentile.
    init(name: String, late milliseconds: [Double], bar: Double) {
        let worst = Statistics.percentile(milliseconds, 0.99) ?? 0
        self.init(
            name: name, unit: "ms p99", value: worst, trials: milliseconds.count,
            p50: Statistics.percentile(milliseconds, 0.5).map { $0 * 1000 }, p99: worst * 1000, bar: .valueAtMost(bar))
    }

    /// A pace measured in rounds against a reference; `latencies` are of ours, in microseconds.
    init(name: String, unit: String, rounds: Rounds, latencies: [Double] = [], bar: Bar?) {
        self.init(
            name: name, unit: unit, value: Statistics.median(rounds.values),
            reference: Statistics.median(rounds.references), ratio: rounds.ratio, trials: rounds.values.count,
            p50: Statistics.percentile(latencies, 0.5), p99: Statistics.percentile(latencies, 0.99), bar: bar)
    }
}
