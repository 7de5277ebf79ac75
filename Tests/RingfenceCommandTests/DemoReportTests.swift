// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import RingfenceCommand

@Suite struct DemoReportTests {
    @Test func `numbers and amounts are grouped`() {
        #expect(DemoPrinter.grouped(1_234_567) == "1,234,567")
        #expect(DemoPrinter.grouped(-1000) == "-1,000")
        #expect(DemoPrinter.money(123_405) == "1,234.05")
        #expect(DemoPrinter.money(-7) == "-0.07")
        #expect(DemoPrinter.decimal(1.25) == "1.3")
    }
}
