// SPDX-License-Identifier: Apache-2.0
//
// Which RINGFENCE_ variables there are. A misspelt one would be a setting that is not in force, and a service without
// its tokens says nothing of that. So every variable with our prefix is a setting, or one of those below, or an error.
//
// What is below is ours and no setting: what children of ours find in their environment, which may run `ringfence`
// again, and what the build and the tests of this repository read.
import RingfencePlatform

extension Settings {
    /// Names without the prefix. A test compares them to what the sources read and set.
    static let otherVariables: Set<String> = [
        // the command of `lock`
        "FENCE", "LOCK", "LOCKS", "HOLD",
        // hooks of the agent, and the command of `agent exec`
        "HOOK", "GROUP", "MEMBER", "EPOCH", "PREVIOUS", "PREVIOUS_EPOCH", "PRIMARY", "PRIMARY_ADDRESS", "ADDRESS",
        "ROLE", "REASON", "EVENT", "DEADLINE_MS",
        // workers of `demo` and `ringfence-bench`
        "DEMO_REDIS", "BENCH_REDIS",
        // the examples of docker/, and the gates
        "TOKEN",
        // build and tests
        "SERVICE", "PURE", "SIMULATION_SEED", "SIMULATION_SEEDS", "NEMESIS_SEED", "SOAK_SECONDS", "JSON_SEED",
        "JSON_DOCUMENTS", "EXPLORATION_WINDOW", "TEST_SERVERS", "FAILOVERS",
    ]
    static let prefix = "RINGFENCE_"

    /// The variables without those that Kubernetes sets in every pod of a namespace that has a Service whose name
    /// begins with `ringfence`: addresses, `RINGFENCE_PORT=tcp://…` among them, and no settings.
    static func withoutServiceLinks(_ environment: [String: String]) -> [String: String] {
        environment.filter { name, value in
            guard name.hasPrefix(prefix) else { return true }
            if name.hasSuffix("_SERVICE_HOST") || name.contains("_SERVICE_PORT") { return false }
            if name.contains(/_PORT_[0-9]+_(TCP|UDP|SCTP)/) { return false }
            return !(name.hasSuffix("_PORT") && value.contains("://"))
        }
    }

    /// - Throws: ``Failure`` for a variable with our prefix that means nothing; an empty one counts as not set.
    static func checkVariables(_ environment: [String: String]) throws {
        let known = SettingKey.all.map(\.variable) + ["RINGFENCE_CONFIG"]
        for (name, value) in environment.sorted(by: { $0.key < $1.key })
        where name.hasPrefix(prefix) && !value.isEmpty && !known.contains(name) {
            if otherVariables.contains(String(name.dropFirst(prefix.count))) { continue }
            let hint = nearest(to: name, among: known).map { "did you mean \($0)?" } ?? "unset it"
            throw Failure(description: "no setting has the variable \(name): \(hint)")
        }
    }
}

/// The one of `words` that `text` most likely should be; nil if it is like none.
package func nearest(to text: String, among words: [String]) -> String? {
    let ranked = words.map { (word: $0, distance: distance(text, $0)) }
    return ranked.min { $0.distance < $1.distance }.flatMap { $0.distance <= 3 ? $0.word : nil }
}

/// How many characters are to be added, removed, replaced or exchanged with their neighbour to make `other` of `text`.
func distance(_ text: String, _ other: String) -> Int {
    let (text, other) = (Array(text), Array(other))
    var rows = [Array(0...other.count)]
    for line in text.indices {
        var row = [line + 1]
        for column in other.indices {
            var least = min(rows[line][column + 1] + 1, row[column] + 1)
            least = min(least, rows[line][column] + (text[line] == other[column] ? 0 : 1))
            if line > 0, column > 0, text[line] == other[column - 1], text[line - 1] == other[column] {
                least = min(least, rows[line - 1][column - 1] + 1)
            }
            row.append(least)
        }
        rows.append(row)
    }
    return rows[text.count][other.count]
}
