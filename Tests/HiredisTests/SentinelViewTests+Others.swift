// SPDX-License-Identifier: Apache-2.0
//
// Who the Sentinels are, and how many.
import Testing

@testable import Hiredis

extension SentinelViewTests {
    @Test func `Sentinels that are found are asked too, each once, and those of the URL always`() {
        var view = view(1)
        #expect(view.sources == [Self.hosts[0]])
        #expect(view.needsList(Self.hosts[0]))
        view.begin(now: 0)
        let others = [(id: "two", host: "10.0.0.2"), (id: "three", host: "10.0.0.3")]
        say(
            &view, 0, PlantedSentinel.replies("a", epoch: 7) + PlantedSentinel.list(others, id: "one"))
        let found = ["10.0.0.2", "10.0.0.3"].map { RedisConfiguration.Address.tcp(host: $0, port: 26_379) }
        #expect(Set(view.sources) == Set([Self.hosts[0]] + found))
        #expect(!view.needsList(Self.hosts[0]))
        // The second one lists the first under its number; the name of the URL answers, so that is enough.
        let back = [(id: "one", host: "10.0.0.1"), (id: "three", host: "10.0.0.3")]
        let replies = PlantedSentinel.replies("a", epoch: 7) + PlantedSentinel.list(back, id: "two")
        view.answered(
            found[0],
            Result { () throws(RedisError) in
                try SentinelAnswer(replies, about: "main", from: found[0])
            })
        #expect(Set(view.sources) == Set([Self.hosts[0]] + found))
        // Once it does not answer any more, its number is tried too.
        view.begin(now: 1)
        view.answered(
            Self.hosts[0], .failure(RedisError(.connectFailed, effect: .none, "the name s1 is not found")))
        #expect(view.sources.contains(.tcp(host: "10.0.0.1", port: 26_379)))
        #expect(view.sources.contains(Self.hosts[0]))
    }

    @Test func `one Sentinel under two addresses has one vote`() {
        var view = view(2)
        view.begin(now: 0)
        for index in 0...1 {
            say(
                &view, index,
                PlantedSentinel.replies("a", epoch: 7)
                    + PlantedSentinel.list([("two", "x"), ("three", "y")], id: "one"))
        }
        #expect(view.answering == 1)
        #expect(view.sighting?.votes == 1)
        #expect(!view.hasMajority)
    }

    @Test func `the list is asked for again when a Sentinel says that it changed, or knows another number`() {
        var view = view(1)
        view.begin(now: 0)
        let list = PlantedSentinel.list([("two", "x"), ("three", "y")], id: "one")
        say(&view, 0, PlantedSentinel.replies("a", epoch: 7) + list)
        #expect(!view.needsList(Self.hosts[0]))
        view.listChanged(at: Self.hosts[0])
        #expect(view.needsList(Self.hosts[0]))
        say(&view, 0, PlantedSentinel.replies("a", epoch: 7) + list)
        #expect(!view.needsList(Self.hosts[0]))
        say(&view, 0, PlantedSentinel.replies("a", epoch: 7, others: 3))
        #expect(view.needsList(Self.hosts[0]))
        // One that is gone is not asked from the next round on, and counts for ten seconds more.
        for second in [1, 2, 12] as [Int64] {
            view.begin(now: second * 1_000_000_000)
            say(
                &view, 0,
                PlantedSentinel.replies("a", epoch: 7, others: 1) + PlantedSentinel.list([("two", "x")], id: "one"))
        }
        #expect(view.sources == [Self.hosts[0], .tcp(host: "x", port: 26_379)])
        #expect(view.known == 2)
    }

    @Test func `another number, another Sentinel and a failure are reasons to ask for the list in the next round`() {
        var view = view(1)
        let list = PlantedSentinel.list([("two", "x"), ("three", "y")], id: "one")
        let rounds: [(replies: [RedisReply], needsList: Bool)] = [
            (PlantedSentinel.replies("a", epoch: 7) + list, false),
            (PlantedSentinel.replies("a", epoch: 7, id: "one"), false),
            (PlantedSentinel.replies("a", epoch: 7, others: 3, id: "one"), true),
            (PlantedSentinel.replies("a", epoch: 7) + list, false),
            (PlantedSentinel.replies("a", epoch: 7, id: "two"), true),
            (PlantedSentinel.replies("a", epoch: 7) + list, false),
            ([], true),
        ]
        for (index, round) in rounds.enumerated() {
            view.begin(now: Int64(index))
            say(&view, 0, round.replies)
            view.begin(now: Int64(index))
            #expect(view.needsList(Self.hosts[0]) == round.needsList, "after round \(index)")
        }
    }

    @Test func `every answer tells who gives it, so a name that leads elsewhere gives nobody a second vote`() {
        var view = view(2)
        view.begin(now: 0)
        say(&view, 0, PlantedSentinel.replies("a", epoch: 7, id: "one"))
        say(&view, 1, PlantedSentinel.replies("a", epoch: 7, id: "two"))
        #expect(view.answering == 2)
        view.begin(now: 1)
        say(&view, 0, PlantedSentinel.replies("a", epoch: 7, id: "two"))
        say(&view, 1, PlantedSentinel.replies("a", epoch: 7, id: "two"))
        #expect(view.answering == 1)
        #expect(view.sighting?.votes == 1)
        #expect(!view.hasMajority)
    }

    @Test func `one that was set up anew and knows nobody is no majority of those that the URL names`() {
        var view = view()
        view.begin(now: 0)
        say(&view, 0, PlantedSentinel.replies("a", epoch: 0, others: 0, id: "one"))
        #expect(view.known == 3)
        #expect(!view.hasMajority)
        #expect(view.sighting?.isAgreed == false)
        // Nor does it lower an epoch, however long it is alone.
        say(&view, 1, PlantedSentinel.replies("b", epoch: 8, others: 2, id: "two"))
        for second in 1...30 {
            view.begin(now: Int64(second) * 1_000_000_000)
            say(&view, 0, PlantedSentinel.replies("a", epoch: 0, others: 0, id: "one"))
            #expect(view.sighting == nil, "after \(second) s")
        }
        #expect(view.highestEpoch == 8)
    }

    @Test func `one that was told to forget the others is no majority before it has said so for ten seconds`() {
        var view = view(1)
        view.begin(now: 0)
        say(&view, 0, PlantedSentinel.replies("a", epoch: 1, others: 2, id: "one"))
        for second in 1...11 {
            view.begin(now: Int64(second) * 1_000_000_000)
            say(&view, 0, PlantedSentinel.replies("a", epoch: 1, others: 0, id: "one"))
            #expect(view.known == 3 && !view.hasMajority, "after \(second) s")
        }
        view.begin(now: 12_000_000_000)
        say(&view, 0, PlantedSentinel.replies("a", epoch: 1, others: 0, id: "one"))
        #expect(view.known == 1 && view.hasMajority)
    }

    @Test func `those that are gone do not keep each other, nor hide who came after them`() {
        func address(_ host: String) -> RedisConfiguration.Address { .tcp(host: host, port: 26_379) }
        func answer(_ id: String, _ list: [String: String]) -> Result<SentinelAnswer, RedisError> {
            var answer = SentinelAnswer(address: Self.redis("a"), epoch: 7)
            (answer.id, answer.others, answer.list) = (id, list.count, list.mapValues(address))
            return .success(answer)
        }
        let gone = RedisError(.connectFailed, effect: .none, "gone", fault: .silent)
        for _ in 0..<20 {  // The order of a dictionary is another one each time.
            var view = view(1)
            view.begin(now: 0)
            view.answered(Self.hosts[0], answer("x", ["y": "oldY", "z": "oldZ"]))
            view.answered(address("oldY"), answer("y", ["x": "s1", "z": "oldZ"]))
            view.answered(address("oldZ"), answer("z", ["x": "s1", "y": "oldY"]))
            view.begin(now: 1)
            view.answered(address("oldY"), .failure(gone))
            view.answered(address("oldZ"), .failure(gone))
            view.answered(Self.hosts[0], answer("x", ["y": "newY", "z": "newZ"]))
            #expect(Set(view.sources) == Set([Self.hosts[0], address("newY"), address("newZ")]))
        }
    }

    @Test func `two names of one Sentinel count once`() {
        var view = view(2)
        view.begin(now: 0)
        say(&view, 0, PlantedSentinel.replies("a", epoch: 1, others: 0, id: "one"))
        #expect(view.known == 2)
        say(&view, 1, PlantedSentinel.replies("a", epoch: 1, others: 0, id: "one"))
        #expect(view.known == 1)
        #expect(view.hasMajority)
    }

    @Test func `what was known of a Sentinel is forgotten when it is not asked any more`() {
        var view = view(1)
        let lone = PlantedSentinel.replies("a", epoch: 7, others: 0) + PlantedSentinel.list([], id: "one")
        let both = PlantedSentinel.replies("a", epoch: 7, others: 1) + PlantedSentinel.list([("two", "x")], id: "one")
        let found = RedisConfiguration.Address.tcp(host: "x", port: 26_379)
        view.begin(now: 0)
        say(&view, 0, both)
        view.listChanged(at: found)
        #expect(view.stale == [found])
        view.begin(now: 1)
        say(&view, 0, lone)
        view.begin(now: 2)
        #expect(view.stale == [])
    }

    @Test func `announced addresses are mapped`() throws {
        var view = SentinelView(
            [Self.hosts[0]], name: "main", map: try AddressMap("10.0.0.9:6379=localhost:7000,10.0.0.2=localhost"))
        view.begin(now: 0)
        say(
            &view, 0,
            PlantedSentinel.replies("10.0.0.9", epoch: 1) + PlantedSentinel.list([("two", "10.0.0.2")], id: "one"))
        #expect(view.sighting?.address == .tcp(host: "localhost", port: 7000))
        #expect(view.sources.contains(.tcp(host: "localhost", port: 26_379)))
    }
}
