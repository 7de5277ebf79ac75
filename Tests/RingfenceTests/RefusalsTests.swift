// SPDX-License-Identifier: Apache-2.0
import Hiredis
import RingfenceCore
import Testing

@testable import Ringfence

@Suite struct RefusalsTests {
    private let again = RedisError(RedisServerError(message: "TRYAGAIN Multiple keys request during rehashing of slot"))
    private let ask = RedisError(RedisServerError(message: "ASK 5718 127.0.0.1:7001"))
    private let loading = RedisError(RedisServerError(message: "LOADING Redis is loading the dataset in memory"))

    /// What is added to the sentence.
    private func said(_ refusals: Refusals, _ error: RedisError, _ milliseconds: Nanos) -> Substring {
        refusals.noted(error, now: milliseconds * .millisecond).message.dropFirst(error.message.count)
    }

    @Test func `a refusal says for how long there were such, whichever side of a moving slot says it`() {
        let refusals = Refusals(namespace: "pay")
        #expect(said(refusals, again, 0) == "; it is the slot of the namespace pay")
        #expect(said(refusals, again, 900) == "; it is the slot of the namespace pay")
        for at in stride(from: 1_000 as Nanos, to: 12_000, by: 1_000) { _ = said(refusals, ask, at) }
        #expect(said(refusals, again, 12_400) == "; it is the slot of the namespace pay; it has been so for 12 s")
    }

    @Test func `another refusal, and one after a time in which Redis took commands, count from their own beginning`() {
        let refusals = Refusals(namespace: "pay")
        for at in stride(from: 0 as Nanos, through: 5_000, by: 500) { _ = said(refusals, again, at) }
        #expect(said(refusals, loading, 5_100) == "")
        #expect(said(refusals, loading, 6_500) == "; it has been so for 1 s")
        #expect(said(refusals, loading, 60_000) == "")
    }

    @Test func `an error of another kind stays as it is`() {
        let refusals = Refusals(namespace: "pay")
        let wrong = RedisError(RedisServerError(message: "WRONGTYPE Operation against a key"))
        for at in [0, 5_000] as [Nanos] { #expect(said(refusals, wrong, at) == "") }
    }
}
