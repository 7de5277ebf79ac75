// SPDX-License-Identifier: Apache-2.0
//
// Requests that share one acquisition, in all orders of what may happen to them.
import Ringfence
import Testing

@testable import RingfenceHTTP

@Suite struct RepeatsTests {
    private enum Step: CaseIterable { case tell, giveUp, letGo }
    private struct NoGrant: Error {}

    private func claim(_ repeats: Repeats, _ id: String = "id") -> Repeats.Claim {
        repeats.claim(.init(id: id, names: ["x"]), .seconds(60)) { Task { throw NoGrant() } }
    }

    /// All orders of five steps of two requests.
    @Test func `what one request was told of is never given back because another went`() {
        var orders: [[(Int, Step)]] = [[]]
        for _ in 0..<5 {
            orders = orders.flatMap { order in (0..<2).flatMap { who in Step.allCases.map { order + [(who, $0)] } } }
        }
        var givenBack = 0
        for order in orders {
            let repeats = Repeats()
            let claims = [claim(repeats), claim(repeats)]
            #expect(claims[0].isFirst && !claims[1].isFirst && claims[0].number == claims[1].number)
            var told = [false, false]
            var gone = [false, false]
            var isGivenBack = false
            for (who, step) in order {
                switch step {
                case .tell:
                    let isTold = repeats.tell(claims[who])
                    #expect(isTold == !gone[who], "told after it was let go: \(order)")
                    if isTold { told[who] = true }
                case .giveUp:
                    if repeats.giveUp(claims[who]) { isGivenBack = true }
                    if !told[who] { gone[who] = true }
                case .letGo:
                    if repeats.letGo(claims[who]) { isGivenBack = true }
                    gone[who] = true
                }
                #expect(isGivenBack == (gone == [true, true]), "\(order)")
            }
            if isGivenBack { givenBack += 1 }
        }
        #expect(givenBack > 0 && givenBack < orders.count)
    }

    @Test
    func `of more acquisitions than it keeps, those that end first are forgotten, and nothing is given back by it`() {
        let repeats = Repeats()
        let first = repeats.claim(.init(id: "first", names: ["x"]), .seconds(1)) { Task { throw NoGrant() } }
        for number in 1..<Repeats.countMaximum { _ = claim(repeats, "\(number)") }
        #expect(!repeats.claim(.init(id: "first", names: ["x"]), .seconds(1)) { Task { throw NoGrant() } }.isFirst)
        _ = claim(repeats, "one more")
        #expect(!claim(repeats, "\(Repeats.countMaximum - 1)").isFirst, "what ends later is kept")
        #expect(repeats.claim(.init(id: "first", names: ["x"]), .seconds(1)) { Task { throw NoGrant() } }.isFirst)
        #expect(!repeats.letGo(first), "whoever asked first may have been told")
    }
}
