// SPDX-License-Identifier: Apache-2.0
//
// Held locks, however many. Redis gives them page by page, in no order, some twice. The first thousand are kept back:
// if those are all, they are sorted. Else each page is printed when it comes, for nobody should wait ten seconds for
// the first of half a million lines; the columns are then as wide as the first thousand need.
import Ringfence
import RingfenceConsole
import RingfenceOperations
import RingfencePlatform

struct LockList {
    var prefix: String
    /// nil: all.
    var limit: Int?
    var json: Bool

    private static let heading = ["NAME", "HOLDER", "FENCE", "TIME LEFT"]
    private static let page = 1000

    func show(_ client: RingfenceClient) async throws {
        // What is printed on the same terminal shows by itself how far it is.
        let progress = Progress(isShown: isatty(1) != 1)
        defer { progress.end() }
        var printer = Printer(json: json)
        var seen: Set<String> = []
        var cursor: String?
        var shownAt = ContinuousClock.now
        repeat {
            let page = try await client.locks(prefix: prefix, cursor: cursor, limit: Self.page)
            cursor = page.next
            for lock in page.locks where seen.insert(lock.name).inserted {
                if let limit, printer.count == limit {
                    try printer.finish()
                    progress.end()
                    return _ = say("ringfence: there are more than \(limit): that is the --limit")
                }
                try printer.take(lock)
            }
            if printer.isStreaming { try Output.flush() }
            if ContinuousClock.now - shownAt > .seconds(1) {
                shownAt = .now
                progress.show("\(printer.count) locks")
            }
        } while cursor != nil
        try printer.finish()
        if printer.count == 0, !json {
            try put("no lock is held" + (prefix.isEmpty ? "" : " whose name starts with \(prefix)"))
        }
    }

    /// Keeps the first back, and prints the others as they come.
    private struct Printer {
        let json: Bool
        private(set) var count = 0
        private var kept: [[String]] = []
        private var table: Table?

        init(json: Bool) { self.json = json }

        var isStreaming: Bool { json || table != nil }

        mutating func take(_ lock: LockHolder) throws {
            count += 1
            if json {
                var line = JSONWriter()
                line.holder(lock, named: true)
                return try put(namingRedis(line.text))
            }
            let row = [lock.name, lock.owner, String(lock.fence), lock.remaining.shortText]
            if let table { return try put(table.line(row)) }
            kept.append(row)
            if kept.count > LockList.page { try print() }
        }

        mutating func finish() throws {
            guard !json, table == nil, !kept.isEmpty else { return }
            kept.sort { $0[0] < $1[0] }
            try print()
        }

        private mutating func print() throws {
            let table = Table(LockList.heading, sample: kept)
            try put(table.headingLine)
            for row in kept { try put(table.line(row)) }
            (self.table, kept) = (table, [])
        }
    }
}
