// SPDX-License-Identifier: Apache-2.0
//
// What is made of events, whoever wrote them: pure.
import Ringfence
import RingfenceCore
import Testing

@testable import RingfenceOperations

@Suite struct GroupHistoryTests {
    private func history(_ events: [String]) throws -> [HistoryEntry] {
        var history = GroupHistory()
        for (index, fields) in events.enumerated() {
            let json =
                #"{"generation":"g","sequence":\#(index + 1),"at":\#(1_000 + index * 100),"group":"db",\#(fields)}"#
            history.add(Event(try EventRecord(Array(json.utf8))))
        }
        return history.entries
    }

    private func elected(
        _ member: String, _ epoch: Int, _ reason: String, from: String? = nil, _ more: String = "",
        detail: String = #""detectMs":0,"decideMs":0"#
    ) -> String {
        let previous = from.map { ",\"previous\":\"\($0)\"" } ?? ""
        return #""type":"primary.elected","member":"\#(member)","epoch":\#(epoch),"reason":"\#(reason)"\#(previous)"#
            + more + #","detail":{"session":"s",\#(detail),"#
            + #""ranking":[{"member":"b","lag":-1,"reasons":["lease"]}]}"#
    }

    private func ready(_ member: String, _ epoch: Int, _ milliseconds: Int) -> String {
        #""type":"primary.ready","member":"\#(member)","epoch":\#(epoch),"detail":{"promoteMs":\#(milliseconds)}"#
    }

    @Test func `an election and its ready are one entry with all that it took`() throws {
        let entries = try history([
            elected("a", 1, "first"), ready("a", 1, 7),
            elected("b", 2, "expired", from: "a", detail: #""detectMs":3004,"decideMs":2"#), ready("b", 2, 120),
        ])
        #expect(entries.map(\.kind) == [.first, .failover] && entries.map(\.epoch) == [1, 2])
        #expect(entries[1].from == "a" && entries[1].to == "b" && entries[1].reason == "expired")
        #expect(entries[1].detection == .milliseconds(3_004) && entries[1].decision == .milliseconds(2))
        #expect(entries[1].promotion == .milliseconds(120) && entries[1].total == .milliseconds(3_126))
        #expect(entries[1].at == 1_200 && entries[1].cursor.sequence == 3 && entries[1].actor == nil)
    }

    @Test func `a switchover counts from its order, and one that was aborted does not`() throws {
        let start = #""type":"switchover.started","member":"b","epoch":1,"actor":"ann","detail":{"timeoutMs":30000}"#
        let entries = try history([
            start, #""type":"switchover.aborted","member":"b","epoch":1,"reason":"timeout""#,
            start, #""type":"member.updated","member":"c","version":9,"detail":{}"#,
            elected(
                "b", 2, "switchover", from: "a", #","actor":"ann""#, detail: #""detectMs":0,"decideMs":0,"why":"patch""#
            ),
            ready("b", 2, 30), elected("a", 3, "left", from: "b"),
        ])
        #expect(entries.map(\.kind) == [.aborted, .switchover, .failover])
        #expect(entries[0].reason == "timeout" && entries[0].total == nil && entries[0].to == "b")
        #expect(entries[1].handover == .milliseconds(200) && entries[1].total == .milliseconds(230))
        #expect(entries[1].actor == "ann" && entries[1].note == "patch" && entries[1].reason == "switchover")
        #expect(entries[2].handover == nil && entries[2].total == nil && entries[2].reason == "left")
    }

    @Test func `by hand, back again, lost and confirmed are told apart`() throws {
        let entries = try history([
            #""type":"failover.started","member":"b","epoch":1,"actor":"ann""#,
            elected("b", 2, "failover", from: "a", #","actor":"ann""#), elected("a", 3, "failback", from: "b"),
            #""type":"primary.lost","member":"a","epoch":3,"reason":"expired""#,
            #""type":"primary.confirmed","member":"a","epoch":3,"detail":{"session":"s"}"#, ready("zzz", 99, 4),
        ])
        #expect(entries.map(\.kind) == [.failoverByHand, .failback, .lost, .confirmed])
        #expect(entries[0].handover == .milliseconds(100) && entries[1].handover == nil)
        #expect(entries[2].from == "a" && entries[2].to == nil && entries[3].to == "a")
    }

    @Test func `what operators ordered is told, and what is not about the primary is not`() throws {
        let entries = try history([
            #""type":"member.joined","member":"a","version":1,"reason":"new","detail":{"session":"s","leaseMs":300}"#,
            #""type":"group.paused","reason":"patch","actor":"ann","detail":{"forMs":600000}"#,
            #""type":"group.resumed","reason":"expired""#, #""type":"group.braked","reason":"flapping","detail":{}"#,
            #""type":"group.unbraked","actor":"ann""#, #""type":"group.settings","detail":{"maxLag":"5"}"#,
            #""type":"member.maintenance","member":"b","actor":"ann","detail":{"on":true}"#,
            #""type":"standby.shortfall","detail":{"standbys":0,"least":1}"#, #""type":"standby.restored","detail":{}"#,
            #""type":"agent.hook","member":"a","detail":{"output":"{[\"x"}"#,
            #""type":"something.new","detail":[1,[2]]"#,
        ])
        #expect(
            entries.map(\.kind) == [
                .paused, .resumed, .braked, .unbraked, .settings, .maintenance, .shortfall, .restored,
            ])
        #expect(entries[0].note == "for 10 m 0 s" && entries[0].reason == "patch" && entries[0].actor == "ann")
        #expect(entries[4].note == #"{"maxLag":"5"}"# && entries[5].note == "on" && entries[5].to == "b")
    }

    @Test func `JSON leaves out what is not known`() throws {
        let entries = try history([
            elected("b", 2, "expired", from: "a"), #""type":"group.braked","reason":"flapping""#,
        ])
        var json = JSONWriter()
        json.entry(entries[0])
        #expect(
            json.text
                == #"{"cursor":"g:1","at":1000,"kind":"failover","epoch":2,"from":"a","to":"b","#
                + #""reason":"expired","detectMs":0,"decideMs":0}"#
        )
        var held = JSONWriter()
        held.entry(entries[1])
        #expect(held.text == #"{"cursor":"g:2","at":1100,"kind":"braked","reason":"flapping"}"#)
    }
}
