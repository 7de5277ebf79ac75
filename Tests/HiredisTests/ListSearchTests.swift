// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Hiredis

@Suite struct ListSearchTests {
    private static func route(_ number: Int) -> Route { Route(.tcp(host: "10.0.0.\(number)", port: 6379)) }

    private static func search(_ count: Int = 2) -> ListSearch {
        ListSearch((1...count).map { route($0).address }, watchInterval: .seconds(1))
    }

    private static func greeting(_ process: String?, replicas: Int = 0) -> Result<Answer, RedisError> {
        var server = ServerState()
        (server.role, server.connectedReplicas) = ("master", replicas)
        var info = ConnectionInfo()
        (info.runID, info.server) = (process, server)
        return .success(.greeting(info))
    }

    private static func failure(_ fault: ConnectionFault) -> Result<Answer, RedisError> {
        .failure(RedisError(.connectFailed, effect: .none, "no", fault: fault))
    }

    private func found(_ step: SearchStep) -> Route? {
        if case .found(let sighting) = step { sighting.route } else { nil }
    }

    private func plight(_ step: SearchStep) -> String? {
        if case .nothing(let error) = step { error.message } else { nil }
    }

    // MARK: a place in use

    @Test func `a place in use that does not greet in time is not left for a primary without replicas`() {
        var search = Self.search()
        _ = search.begin(current: Self.route(1))
        #expect(search.answered(.greet(Self.route(2)), Self.greeting("b")) == .wait)
        #expect(search.timedOut() == .unchanged)
        // Nor when the attempt failed: commands may still work there.
        _ = search.begin(current: Self.route(1))
        #expect(search.answered(.greet(Self.route(1)), Self.failure(.refused)) == .wait)
        #expect(search.answered(.greet(Self.route(2)), Self.greeting("b")) == .unchanged)
    }

    @Test func `it is left for one with replicas`() {
        var search = Self.search()
        _ = search.begin(current: Self.route(1))
        #expect(search.answered(.greet(Self.route(2)), Self.greeting("b", replicas: 1)) == .wait)
        #expect(found(search.timedOut()) == Self.route(2))
        // Also if it greets, and has none.
        _ = search.begin(current: Self.route(1))
        #expect(search.answered(.greet(Self.route(1)), Self.greeting("a")) == .wait)
        #expect(found(search.answered(.greet(Self.route(2)), Self.greeting("b", replicas: 1))) == Self.route(2))
    }

    @Test func `it is left when it says that it is a replica`() {
        var search = Self.search()
        _ = search.begin(current: Self.route(1))
        #expect(search.answered(.greet(Self.route(1)), Self.failure(.replica)) == .wait)
        #expect(found(search.answered(.greet(Self.route(2)), Self.greeting("b"))) == Self.route(2))
        // That was said in another check.
        _ = search.begin(current: Self.route(1))
        #expect(search.answered(.greet(Self.route(2)), Self.greeting("b")) == .wait)
        #expect(search.timedOut() == .unchanged)
    }

    @Test func `without a place the primary is taken that is there`() {
        var search = Self.search()
        _ = search.begin(current: Self.route(1))
        _ = search.begin(current: nil)
        #expect(search.answered(.greet(Self.route(2)), Self.greeting("b")) == .wait)
        #expect(found(search.timedOut()) == Self.route(2))
    }

    // MARK: names

    @Test func `a server that is in the list twice is one primary`() {
        var search = Self.search(3)
        _ = search.begin(current: nil)
        #expect(search.answered(.greet(Self.route(3)), Self.failure(.replica)) == .wait)
        #expect(search.answered(.greet(Self.route(1)), Self.greeting("a")) == .wait)
        #expect(found(search.answered(.greet(Self.route(2)), Self.greeting("a"))) == Self.route(1))
        // It keeps the name by which it is used.
        for current in [1, 2] {
            _ = search.begin(current: Self.route(current))
            #expect(search.answered(.greet(Self.route(3)), Self.failure(.replica)) == .wait)
            #expect(search.answered(.greet(Self.route(1)), Self.greeting("a")) == .wait)
            let step = search.answered(.greet(Self.route(2)), Self.greeting("a"))
            #expect(found(step) == Self.route(current))
        }
    }

    @Test func `servers that do not say which they are may be two`() {
        var search = Self.search()
        _ = search.begin(current: nil)
        #expect(search.answered(.greet(Self.route(1)), Self.greeting(nil)) == .wait)
        let step = search.answered(.greet(Self.route(2)), Self.greeting(nil))
        #expect(plight(step)?.contains("are both primaries") == true)
    }

    // MARK: time

    @Test func `a look that ran out of time gives the next one twice as much`() throws {
        var configuration = try RedisConfiguration(url: "redis+replicated://10.0.0.1,10.0.0.2")
        configuration.connectTimeout = .seconds(3)
        var search = Self.search()
        for limit in [500, 1000, 2000, 3000, 3000] {
            #expect(search.limit(configuration) == .milliseconds(limit))
            _ = search.begin(current: nil)
            #expect(plight(search.timedOut()) != nil)
        }
        _ = search.begin(current: nil)
        #expect(search.answered(.greet(Self.route(1)), Self.greeting("a")) == .wait)
        #expect(found(search.timedOut()) == Self.route(1))
        // Checks are short, also those that find nothing.
        for _ in 0..<2 {
            #expect(search.limit(configuration) == .milliseconds(500))
            _ = search.begin(current: Self.route(1))
            _ = search.timedOut()
        }
        // All have answered, so no time was lacking.
        _ = search.begin(current: nil)
        _ = search.answered(.greet(Self.route(1)), Self.failure(.refused))
        _ = search.answered(.greet(Self.route(2)), Self.failure(.replica))
        #expect(search.limit(configuration) == .milliseconds(500))
        configuration.connectTimeout = .milliseconds(200)
        #expect(search.limit(configuration) == .milliseconds(200))
    }
}
