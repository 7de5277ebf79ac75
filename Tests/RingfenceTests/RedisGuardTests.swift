// SPDX-License-Identifier: Apache-2.0
//
// The Lua guard in front of a real write, on a real redis-server, through redis-cli: what a user would type.
import Ringfence
import TestSupport
import Testing

@Suite struct RedisGuardTests {
    /// Pairs (older, newer) around every place where a comparison by text alone, or as a double, goes wrong.
    static let order: [(Int64, Int64)] = [
        (1, 2), (9, 10), (99, 100),
        (9_007_199_254_740_991, 9_007_199_254_740_992),
        (9_007_199_254_740_992, 9_007_199_254_740_993),
        (1_763_850_000_123_456, 1_763_850_000_123_457),
        (999_999_999_999_999_999, 1_000_000_000_000_000_000),
        (1_152_921_504_606_846_976, 1_152_921_504_606_846_977),
        (9_223_372_036_854_775_806, 9_223_372_036_854_775_807),
    ]

    @Test(arguments: order)
    func `a newer fence writes, and an older one is then refused`(older: Int64, newer: Int64) async throws {
        try await withRedis { server async throws in
            #expect(try await server.write("first", fence: older, holder: "a-1") == "written")
            #expect(try await server.write("second", fence: newer, holder: "b-1") == "written")
            #expect(try await server.write("late", fence: older, holder: "a-1") == "refused")
            #expect(try await server.cli("GET", "{x}data") == "second")
            #expect(try await server.cli("GET", "{x}guard") == "\(newer):b-1")
        }
    }

    @Test func `a control that compares Lua numbers lets an older fence overwrite a newer one`() async throws {
        let control = """
            local function ringfence_guard(key, fence, holder)
              local seen = redis.call('GET', key)
              if seen and tonumber(fence) < tonumber(seen) then return false end
              redis.call('SET', key, fence)
              return true
            end
            """
        try await withRedis { server async throws in
            let newer: Int64 = 9_007_199_254_740_993
            _ = try await server.write("newer", fence: newer, holder: "b-1", guardedBy: control)
            #expect(
                try await server.write("late", fence: newer - 1, holder: "a-1", guardedBy: control) == "written",
                "the numbers near 2^53 no longer show the fault that the guard must not have")
        }
    }

    @Test func `one holder writes again and again under one fence, another holder of the same fence never`()
        async throws
    {
        try await withRedis { server async throws in
            for value in 1...3 {
                #expect(try await server.write("\(value)", fence: 7, holder: "a-1") == "written")
            }
            #expect(try await server.write("other", fence: 7, holder: "a-11") == "refused")
            #expect(try await server.write("other", fence: 7, holder: "b-1") == "refused")
            #expect(try await server.cli("GET", "{x}data") == "3")
        }
    }

    @Test(arguments: [
        "", "0", "-1", "+1", "01", " 1", "1 ", "1.5", "1e3", "0x10", "abc", "nan", "1\n", "9223372036854775808",
        "10000000000000000000", "99999999999999999999999999",
    ])
    func `a malformed fence is refused by name and nothing is written`(fence: String) async throws {
        try await withRedis { server async throws in
            let answer = try await server.write("x", fence: fence, holder: "a-1")
            #expect(answer.contains("ringfence_guard: fence must be a decimal string from 1 to 9223372036854775807"))
            #expect(try await server.cli("DBSIZE") == "0")
        }
    }

    @Test(arguments: ["", String(repeating: "h", count: 257)])
    func `a malformed holder is refused by name and nothing is written`(holder: String) async throws {
        try await withRedis { server async throws in
            let answer = try await server.write("x", fence: "1", holder: holder)
            #expect(answer.contains("ringfence_guard: holder must be a string of 1 to 256 bytes"))
            #expect(try await server.cli("DBSIZE") == "0")
        }
    }

    @Test func `a fence that went through a Lua number is refused`() async throws {
        try await withRedis { server async throws in
            let script = RingfenceGuard.lua + "return ringfence_guard(KEYS[1], tonumber(ARGV[1]), ARGV[2])"
            let answer = try await server.cli("EVAL", script, "1", "{x}guard", "7", "a-1")
            #expect(answer.contains("fence must be a decimal string"))
        }
    }

    @Test func `a key that holds something else is an error and stays as it is`() async throws {
        try await withRedis { server async throws in
            try await server.cli("SET", "{x}guard", "balance 100")
            let answer = try await server.write("x", fence: 7, holder: "a-1")
            #expect(answer.contains("the key holds something that is not a guard"))
            #expect(try await server.cli("GET", "{x}guard") == "balance 100")
            #expect(try await server.cli("EXISTS", "{x}data") == "0")
        }
    }

    @Test func `a holder may contain any bytes that are not the fence`() async throws {
        try await withRedis { server async throws in
            #expect(try await server.write("1", fence: 7, holder: "host:42\nline-1") == "written")
            #expect(try await server.write("2", fence: 7, holder: "host:42\nline-1") == "written")
            #expect(try await server.write("3", fence: 7, holder: "host:42") == "refused")
        }
    }

    @Test func `the guard decides as 64-bit integers do, over thousands of random fences`() async throws {
        // One script runs the guard over the whole list, and a model in Swift says what each step must answer.
        let seed = UInt64.random(in: 0 ... .max)
        var dice = SplitMix(seed: seed)
        let script =
            RingfenceGuard.lua
                + """

                local answers = {}
                for i = 1, #ARGV, 2 do
                  answers[#answers + 1] = ringfence_guard(KEYS[1], ARGV[i], ARGV[i + 1]) and '1' or '0'
                end
                return table.concat(answers)
                """
        try await withRedis { server async throws in
            for round in 0..<40 {
                // Near each other at a random magnitude, so that equal, less by one and other lengths all happen.
                let middle = Int64(1) << Int64.random(in: 3...62, using: &dice)
                var newest: (fence: Int64, holder: String)?
                var arguments: [String] = []
                var expected = ""
                for _ in 0..<100 {
                    let fence = middle &+ Int64.random(in: -4...4, using: &dice)
                    let holder = ["a-1", "b-1"].randomElement(using: &dice)!
                    arguments += ["\(fence)", holder]
                    let passes = newest.map { $0.fence < fence || $0 == (fence, holder) } ?? true
                    if passes { newest = (fence, holder) }
                    expected += passes ? "1" : "0"
                }
                let answer = try await redisCLI(
                    ["-s", server.socketPath, "EVAL", script, "1", "guard:\(round)"] + arguments)
                #expect(answer == expected, "seed \(seed), round \(round)")
            }
        }
    }
}

extension RedisServer {
    /// A guarded SET, as a user would write it.
    func write(
        _ value: String, fence: some CustomStringConvertible, holder: String,
        guardedBy text: String = RingfenceGuard.lua
    ) async throws -> String {
        let script =
            text + """

                if not ringfence_guard(KEYS[1], ARGV[1], ARGV[2]) then return 'refused' end
                redis.call('SET', KEYS[2], ARGV[3])
                return 'written'
                """
        return try await cli("EVAL", script, "2", "{x}guard", "{x}data", fence.description, holder, value)
    }
}

/// A seeded generator, so that a failure can be run again.
struct SplitMix: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
