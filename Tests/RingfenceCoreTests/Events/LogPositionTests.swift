// SPDX-License-Identifier: Apache-2.0
import RingfenceCore
import Testing

@Suite struct LogPositionTests {
    @Test(arguments: ["g:0", "k3-x_Y.9:12", "0:0", "g:9007199254740991"])
    func `a position is read as it is written`(text: String) throws {
        let position = try #require(LogPosition(parsing: text))
        #expect(position.text == text)
    }

    @Test(arguments: [
        "", ":", "g", "g:", ":1", "g:01", "g:+1", "g:-1", "g: 1", "g:1 ", "g:9007199254740992",
        "g:99999999999999999999",
        "g:1:2", "g h:1", "g@1:1", "0:1", "g:1x", "gé:1", String(repeating: "g", count: 65) + ":1",
    ])
    func `anything else is no position`(text: String) {
        #expect(LogPosition(parsing: text) == nil)
    }

    private static let head = LogHead(
        generation: "g3", sequence: 300, first: 50,
        forks: [.init(generation: "g2", last: 200), .init(generation: "g1", last: 100)])

    @Test(arguments: [
        ("g3:300", LogHead.Judgement.good), ("g3:201", .good), ("g3:301", .gone),
        ("g2:200", .good), ("g2:150", .good), ("g2:201", .gone), ("g1:100", .good), ("g1:101", .gone),
        ("g1:49", .good), ("g1:48", .trimmed), ("0:0", .trimmed), ("g9:1", .gone), ("g9:0", .gone),
    ])
    func `a position is judged by its generation and where that ended`(text: String, judgement: LogHead.Judgement)
        throws
    {
        #expect(Self.head.judge(try #require(LogPosition(parsing: text))) == judgement)
    }

    @Test func `the oldest position has the generation of its event`() {
        #expect(Self.head.oldest.text == "g1:49")
        var head = Self.head
        for (first, oldest) in [(1, "0:0"), (101, "g1:100"), (102, "g2:101"), (201, "g2:200"), (202, "g3:201")] {
            head.first = Int64(first)
            #expect(head.oldest.text == oldest)
            #expect(head.judge(head.oldest) == .good)
        }
        #expect(LogHead(generation: "0", sequence: 0, first: 1, forks: []).oldest == .start)
    }

    @Test func `forks are read strictly`() throws {
        let head = try #require(LogHead(generation: "g3", sequence: 300, first: 1, forks: "g2@200 g1@100"))
        #expect(head.forks == [.init(generation: "g2", last: 200), .init(generation: "g1", last: 100)])
        #expect(LogHead(generation: "g", sequence: 1, first: 1, forks: "")?.forks == [])
        for text in ["g2", "g2@", "@1", "g2@x", "g2@1,g1@2"] {
            #expect(LogHead(generation: "g", sequence: 1, first: 1, forks: text) == nil, "\(text)")
        }
    }

    @Test func `a page ends before what is missing or cannot be read`() {
        let head = LogHead(generation: "g", sequence: 5, first: 1, forks: [])
        func page(after sequence: Int64, _ seqs: [Int64?]) -> ([Int64], Bool) {
            let page = LogPage<Numbered>(head: head, after: sequence, read: seqs.map { $0.map { Numbered("g", $0) } })
            return (page.entries.map(\.position.sequence), page.isBroken)
        }
        #expect(page(after: 0, [1, 2, 3]) == ([1, 2, 3], false))
        #expect(page(after: 0, [1, 3]) == ([1], true))
        #expect(page(after: 0, [1, nil, 3]) == ([1], true))
        #expect(page(after: 0, [2, 3]) == ([], true))
        #expect(page(after: 3, []) == ([], true))
        #expect(page(after: 5, []) == ([], false))
    }
}

/// An event that is nothing but its number.
struct Numbered: LogEntry, Equatable {
    var position: LogPosition
    var byteCount: Int { 100 }

    init(_ generation: String, _ sequence: Int64) { position = LogPosition(generation: generation, sequence: sequence) }
}
