// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Hiredis

@Suite struct SentinelViewTests {
    static let hosts = ["s1", "s2", "s3"].map { RedisConfiguration.Address.tcp(host: $0, port: 26_379) }
    static func redis(_ host: String) -> RedisConfiguration.Address { .tcp(host: host, port: 6379) }

    func say(_ view: inout SentinelView, _ index: Int, _ replies: [RedisReply]) {
        let source = Self.hosts[index]
        do throws(RedisError) {
            view.answered(source, .success(try SentinelAnswer(replies, about: view.name, from: source)))
        } catch {
            view.answered(source, .failure(error))
        }
    }

    func view(_ count: Int = 3) -> SentinelView { SentinelView(Array(Self.hosts.prefix(count)), name: "main") }

    // MARK: One Sentinel

    @Test
    func `during a failover the row of the leader shows the old address under the new epoch, and is not believed`()
        throws
    {
        let answer = try SentinelAnswer(
            PlantedSentinel.replies("new", epoch: 8, row: "old"), about: "main", from: Self.hosts[0])
        #expect(answer.address == Self.redis("new"))
        #expect(answer.epoch == 8)
        #expect(answer.others == 2)
    }

    @Test func `an address that changed around the row is no answer`() {
        let error = #expect(throws: RedisError.self) {
            try SentinelAnswer(
                PlantedSentinel.replies("old", epoch: 8, after: "new"), about: "main", from: Self.hosts[0])
        }
        #expect(error?.message.contains("from old:6379 to new:6379") == true)
    }

    @Test func `a row says whether the primary is down`() throws {
        var replies = PlantedSentinel.replies("a", epoch: 1)
        #expect(try !SentinelAnswer(replies, about: "main", from: Self.hosts[0]).isDown)
        replies[1] = PlantedSentinel.row(ip: "a", epoch: 1, flags: "master,s_down,o_down")
        #expect(try SentinelAnswer(replies, about: "main", from: Self.hosts[0]).isDown)
    }

    @Test(
        arguments: [
            ("ERR No such master with that name", "watches no primary that is called \"main\"", .unknownPrimary),
            ("NOAUTH Authentication required.", "set RINGFENCE_SENTINEL_PASSWORD", .password),
            (
                "WRONGPASS invalid username-password pair or user is disabled.", "refuses our user or password",
                .password
            ),
            ("NOPERM this user has no permissions", "+sentinel|master", .broken),
            ("IDONTKNOW ask somebody else", "does not know where", .noPrimary),
            ("ERR unknown command 'SENTINEL', with args beginning with:", "is no Sentinel", .notSentinel),
            ("LOADING Redis is loading the dataset in memory", "LOADING", .broken),
        ] as [(String, String, ConnectionFault)])
    func `an error reply becomes a sentence that names the Sentinel and what to do`(
        reply: String, part: String, fault: ConnectionFault
    ) {
        let replies = Array(repeating: RedisReply.error(RedisServerError(message: reply)), count: 3)
        let error = #expect(throws: RedisError.self) {
            try SentinelAnswer(replies, about: "main", from: Self.hosts[1])
        }
        #expect(error?.message.contains("s2:26379") == true)
        #expect(error?.message.contains(part) == true, "\(error?.message ?? "")")
        #expect(error?.fault == fault)
    }

    @Test func `a name that is not known has no address`() {
        let replies: [RedisReply] = [
            .null, .error(RedisServerError(message: "ERR No such master with that name")), .null,
        ]
        let error = #expect(throws: RedisError.self) {
            try SentinelAnswer(replies, about: "main", from: Self.hosts[0])
        }
        #expect(error?.fault == .unknownPrimary)
    }

    @Test(
        arguments: [
            [], [.null], [.integer(1), .integer(2), .integer(3)],
            [PlantedSentinel.address("a"), .array([]), PlantedSentinel.address("a")],
            [PlantedSentinel.address("a", 0), PlantedSentinel.row(ip: "a", epoch: 1), PlantedSentinel.address("a", 0)],
            [PlantedSentinel.address(""), PlantedSentinel.row(ip: "a", epoch: 1), PlantedSentinel.address("")],
        ] as [[RedisReply]])
    func `half an answer is none`(replies: [RedisReply]) {
        let error = #expect(throws: RedisError.self) {
            try SentinelAnswer(replies, about: "main", from: Self.hosts[0])
        }
        #expect(error?.message.contains("s1:26379") == true)
    }

    // MARK: All of them

    @Test func `a majority that says the same is agreed, one alone is not`() {
        var view = view()
        view.begin(now: 0)
        #expect(view.sighting == nil)
        say(&view, 0, PlantedSentinel.replies("a", epoch: 7))
        #expect(view.sighting == .init(address: Self.redis("a"), epoch: 7, votes: 1, isAgreed: false))
        #expect(!view.hasMajority)
        say(&view, 2, PlantedSentinel.replies("a", epoch: 7))
        #expect(view.sighting == .init(address: Self.redis("a"), epoch: 7, votes: 2, isAgreed: true))
        #expect(view.hasMajority)
        #expect(view.answering == 2)
        #expect(view.known == 3)
    }

    @Test func `the highest epoch wins against a majority that was left behind`() {
        var view = view()
        view.begin(now: 0)
        say(&view, 0, PlantedSentinel.replies("old", epoch: 7))
        say(&view, 1, PlantedSentinel.replies("old", epoch: 7))
        say(&view, 2, PlantedSentinel.replies("new", epoch: 8, row: "old"))
        #expect(view.sighting == .init(address: Self.redis("new"), epoch: 8, votes: 1, isAgreed: false))
    }

    @Test func `an epoch that was seen is not gone below, whoever answers later`() {
        var view = view()
        view.begin(now: 0)
        say(&view, 2, PlantedSentinel.replies("new", epoch: 8))
        view.begin(now: 1_000_000_000)
        say(&view, 0, PlantedSentinel.replies("old", epoch: 7))
        say(&view, 1, PlantedSentinel.replies("old", epoch: 7))
        #expect(view.sighting == nil)
        #expect(view.whyNot.fault == .noPrimary)
        #expect(view.whyNot.message.contains("(s1:26379, s2:26379) know epoch 7"), "\(view.whyNot.message)")
        #expect(view.whyNot.message.contains("epoch 8 was seen"))
    }

    @Test func `a majority that has known only a lower epoch for ten seconds is right after all`() {
        var view = view()
        view.begin(now: 0)
        say(&view, 2, PlantedSentinel.replies("new", epoch: 8))
        for second in 1...12 {
            view.begin(now: Int64(second) * 1_000_000_000)
            say(&view, 0, PlantedSentinel.replies("old", epoch: 7))
            say(&view, 1, PlantedSentinel.replies("old", epoch: 7))
            #expect((view.sighting != nil) == (second == 12), "after \(second) s")
        }
    }

    @Test func `the ten seconds begin anew when somebody knows the higher epoch`() {
        var view = view()
        for second in 0...40 {
            view.begin(now: Int64(second) * 1_000_000_000)
            say(&view, 0, PlantedSentinel.replies("old", epoch: 7))
            say(&view, 1, PlantedSentinel.replies("old", epoch: 7))
            if second % 8 == 0 { say(&view, 2, PlantedSentinel.replies("new", epoch: 8)) }
            #expect(view.sighting?.address == (second % 8 == 0 ? Self.redis("new") : nil), "after \(second) s")
        }
    }

    @Test func `one Sentinel that is behind never has its way, however long it is alone`() {
        var view = view()
        view.begin(now: 0)
        say(&view, 0, PlantedSentinel.replies("new", epoch: 8))
        for second in 1...60 {
            view.begin(now: Int64(second) * 1_000_000_000)
            say(&view, 2, PlantedSentinel.replies("old", epoch: 7))
            #expect(view.sighting == nil)
        }
    }

    @Test func `two addresses under one epoch are decided by a majority`() {
        var view = view()
        view.begin(now: 0)
        say(&view, 0, PlantedSentinel.replies("a", epoch: 7))
        say(&view, 1, PlantedSentinel.replies("b", epoch: 7))
        #expect(view.sighting == nil)
        #expect(view.whyNot.fault == .sentinelsDisagree)
        #expect(view.whyNot.message.contains("a:6379 by s1:26379, b:6379 by s2:26379"), "\(view.whyNot.message)")
        say(&view, 2, PlantedSentinel.replies("b", epoch: 7))
        #expect(view.sighting == .init(address: Self.redis("b"), epoch: 7, votes: 2, isAgreed: true))
    }

    @Test func `half is no majority, and Sentinels that are down count`() {
        var view = view(2)
        view.begin(now: 0)
        say(&view, 0, PlantedSentinel.replies("a", epoch: 7, others: 3))
        say(&view, 1, PlantedSentinel.replies("a", epoch: 7, others: 3))
        #expect(view.known == 4)
        #expect(!view.hasMajority)
        #expect(view.sighting?.isAgreed == false)
        #expect(view.noMajority.message.contains("2 of 4 Sentinels"))
        #expect(view.noMajority.fault == .noMajority)
    }

    @Test func `when nobody answers, the reasons of all are told`() {
        var view = view()
        view.begin(now: 0)
        let refused = RedisError(.connectFailed, effect: .none, "connection refused by s1:26379", fault: .refused)
        view.answered(Self.hosts[0], .failure(refused))
        say(&view, 1, [.null, .null, .null])
        let text = view.whyNot.message
        #expect(text.contains("connection refused by s1:26379"))
        #expect(text.contains("the Sentinel s2:26379 watches no primary that is called \"main\""))
        #expect(text.contains("no answer from s3:26379"))
        #expect(view.whyNot.fault == .noPrimary)
    }

    @Test func `a fault that all have in common is that of the whole`() {
        var view = view(2)
        view.begin(now: 0)
        say(&view, 0, [.null, .null, .null])
        say(&view, 1, [.null, .null, .null])
        #expect(view.whyNot.fault == .unknownPrimary)
    }

    @Test func `a Sentinel that wants a password at the handshake is told of by the variable to set`() {
        var view = view(1)
        view.begin(now: 0)
        let reply = RedisServerError(message: "NOAUTH Authentication required.")
        view.answered(Self.hosts[0], .failure(ConnectionMachine.refusal(reply)))
        #expect(view.whyNot.message.contains("RINGFENCE_SENTINEL_PASSWORD"))
        #expect(view.whyNot.fault == .password)
    }
}
