// SPDX-License-Identifier: Apache-2.0
//
// The backend of swift-metrics behind GET /metrics: counters, gauges and histograms, printed as Prometheus text.
//
// A metric is a few atomics: counting costs nanoseconds and takes no lock. Timers and recorders become histograms with
// fixed buckets, because quantiles computed in one process cannot be added up over several. The number of series has a
// limit: code that puts lock names into a label fills neither this process nor the metrics server, but gets a no-op and
// is counted in ringfence_metrics_dropped_series.
package import CoreMetrics
import Synchronization

/// A `MetricsFactory` that can print all it holds.
package final class PrometheusRegistry: MetricsFactory {
    static let seriesMaximum = 1_000
    /// Upper bounds in seconds: 100 µs to 60 s, about two a decade.
    static let secondsBounds = [
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 15, 60,
    ]
    static let valueBounds = [1.0, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 10_000, 100_000]

    private struct Key: Hashable {
        var name: String
        var labels: String
    }

    private struct State {
        var series: [Key: any Series] = [:]
        var dropped = 0
    }

    private let state = Mutex(State())

    package init() {}

    package func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        series(label, dimensions, suffix: "_total") { Count() }
    }

    package func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        series(label, dimensions) { Gauge() }
    }

    package func makeRecorder(
        label: String, dimensions: [(String, String)], aggregate: Bool
    ) -> any RecorderHandler {
        if aggregate { return series(label, dimensions) { Histogram(bounds: Self.valueBounds, unit: 1) } }
        return series(label, dimensions) { Gauge() }
    }

    package func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        series(label, dimensions, suffix: "_seconds") { Histogram(bounds: Self.secondsBounds, unit: 1e9) }
    }

    package func destroyCounter(_ handler: any CounterHandler) {}
    package func destroyMeter(_ handler: any MeterHandler) {}
    package func destroyRecorder(_ handler: any RecorderHandler) {}
    package func destroyTimer(_ handler: any TimerHandler) {}

    /// All series, in the text format 0.0.4, sorted by name.
    package var text: String {
        let (series, dropped) = state.withLock { ($0.series, $0.dropped) }
        var lines: [String] = []
        var last = ""
        for (key, series) in series.sorted(by: { ($0.key.name, $0.key.labels) < ($1.key.name, $1.key.labels) }) {
            if key.name != last { lines.append("# TYPE \(key.name) \(type(of: series).kind)") }
            last = key.name
            series.print(name: key.name, labels: key.labels, to: &lines)
        }
        lines.append("# TYPE ringfence_metrics_dropped_series gauge")
        lines.append("ringfence_metrics_dropped_series \(dropped)")
        return lines.joined(separator: "\n") + "\n"
    }

    /// The series of that name and labels, made at its first use. The same label asked for as two types, or one too
    /// many, gets a series of its own that is not printed.
    private func series<Kind: Series>(
        _ label: String, _ dimensions: [(String, String)], suffix: String = "", _ make: () -> Kind
    ) -> Kind {
        let name = Self.sanitized(label, suffix: suffix)
        let labels = dimensions.sorted { $0.0 < $1.0 }
            .map { "\(Self.sanitized($0.0, suffix: ""))=\"\(Self.escaped($0.1))\"" }.joined(separator: ",")
        return state.withLock { state in
            let key = Key(name: name, labels: labels)
            if let known = state.series[key] as? Kind { return known }
            let made = make()
            let isOfOtherKind = state.series.contains { $0.key.name == name && !($0.value is Kind) }
            if isOfOtherKind || state.series.count >= Self.seriesMaximum {
                state.dropped += 1
            } else {
                state.series[key] = made
            }
            return made
        }
    }

    private static func sanitized(_ label: String, suffix: String) -> String {
        var name = ""
        for byte in label.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"):
                name.unicodeScalars.append(Unicode.Scalar(byte))
            default: name += "_"
            }
        }
        if name.first?.isNumber ?? true { name = "_" + name }
        return name.hasSuffix(suffix) ? name : name + suffix
    }

    private static func escaped(_ value: String) -> String {
        value.map { character in
            switch character {
            case "\\": "\\\\"
            case "\"": "\\\""
            case "\n": "\\n"
            default: String(character)
            }
        }.joined()
    }
}

/// What a line or several of the page come from.
private protocol Series: AnyObject, Sendable {
    static var kind: String { get }
    func print(name: String, labels: String, to lines: inout [String])
}

private func braced(_ labels: String) -> String { labels.isEmpty ? "" : "{\(labels)}" }

private final class Count: CounterHandler, Series {
    static var kind: String { "counter" }
    private let value = Atomic<Int64>(0)

    func increment(by amount: Int64) { value.wrappingAdd(amount, ordering: .relaxed) }
    func reset() { value.store(0, ordering: .relaxed) }
    func print(name: String, labels: String, to lines: inout [String]) {
        lines.append("\(name)\(braced(labels)) \(value.load(ordering: .relaxed))")
    }
}

private final class Gauge: MeterHandler, RecorderHandler, Series {
    static var kind: String { "gauge" }
    private let bits = Atomic<UInt64>(0)

    func set(_ value: Int64) { set(Double(value)) }
    func set(_ value: Double) { bits.store(value.bitPattern, ordering: .relaxed) }
    func increment(by amount: Double) { add(amount) }
    func decrement(by amount: Double) { add(-amount) }
    func record(_ value: Int64) { set(value) }
    func record(_ value: Double) { set(value) }

    private func add(_ amount: Double) {
        var old = bits.load(ordering: .relaxed)
        while true {
            let new = (Double(bitPattern: old) + amount).bitPattern
            let (exchanged, original) = bits.compareExchange(expected: old, desired: new, ordering: .relaxed)
            if exchanged { return }
            old = original
        }
    }

    func print(name: String, labels: String, to lines: inout [String]) {
        lines.append("\(name)\(braced(labels)) \(Double(bitPattern: bits.load(ordering: .relaxed)))")
    }
}

private final class Histogram: TimerHandler, RecorderHandler, Series {
    static var kind: String { "histogram" }
    private let bounds: [Double]
    /// What is recorded is divided by this: nanoseconds become seconds.
    private let unit: Double
    private let buckets: [Box]
    private let sum = Atomic<Int64>(0)

    /// Atomics cannot be elements of an array themselves.
    private final class Box: Sendable { let count = Atomic<Int64>(0) }

    init(bounds: [Double], unit: Double) {
        self.bounds = bounds
        self.unit = unit
        self.buckets = (0...bounds.count).map { _ in Box() }
    }

    func recordNanoseconds(_ duration: Int64) { record(duration) }
    func record(_ value: Double) { record(Int64(exactly: value.rounded()) ?? .max) }
    func record(_ value: Int64) {
        let scaled = Double(value) / unit
        let index = bounds.firstIndex { scaled <= $0 } ?? bounds.count
        buckets[index].count.wrappingAdd(1, ordering: .relaxed)
        sum.wrappingAdd(value, ordering: .relaxed)
    }

    func print(name: String, labels: String, to lines: inout [String]) {
        let separator = labels.isEmpty ? "" : ","
        var total: Int64 = 0
        for (index, bucket) in buckets.enumerated() {
            total += bucket.count.load(ordering: .relaxed)
            let bound = index < bounds.count ? "\(bounds[index])" : "+Inf"
            lines.append("\(name)_bucket{\(labels)\(separator)le=\"\(bound)\"} \(total)")
        }
        lines.append("\(name)_sum\(braced(labels)) \(Double(sum.load(ordering: .relaxed)) / unit)")
        lines.append("\(name)_count\(braced(labels)) \(total)")
    }
}
