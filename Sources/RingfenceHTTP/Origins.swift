// SPDX-License-Identifier: Apache-2.0
//
// A browser is the one program on a host that runs what strangers wrote and sends requests for them, to loopback too.
// Two ways in, and what shuts them:
//
//  - a page of another origin sends an order "without cors" or by a form: it is done, though the page cannot read the
//    answer. Browsers say where a request comes from, in Sec-Fetch-Site, older ones in Origin: such an order is
//    refused. What says neither is no browser, and goes on;
//  - a page's own name is made to point at this address (DNS rebinding), and for the browser all is of one origin then.
//    But the browser calls the service by that name: only names that are known to be ours are answered. An address
//    cannot be rebound, so every literal address will do.
import HTTPTypes
import RingfenceCore

/// From whom orders are taken, and by which names the service is called.
struct Origins: Sendable {
    /// nil: any.
    private let names: Set<String>?

    /// - Parameter names: in small letters, beside `localhost`.
    init(names: [String]) { self.names = Set(names).union(["localhost"]) }

    private init() { names = nil }

    /// Called by any name.
    static let any = Origins()

    /// Why a request is not answered; nil: it is.
    func refusal(of head: HTTPRequest) -> Problem? {
        // HTTP/1.0 may come without a Host; no browser speaks it.
        if let authority = head.authority, !isOurs(authority) {
            return Problem(
                .hostRefused,
                "the service is not called \(quoted(String(authority.prefix(128)))): allowed are addresses, localhost, "
                    + "its host and each --allowed-host", field: "Host")
        }
        guard head.method != .get, head.method != .head else { return nil }
        if let site = head.headerFields[.secFetchSite] {
            if site == "same-origin" || site == "none" { return nil }
        } else if let origin = head.headerFields[.origin] {
            let scheme = origin.firstRange(of: "://")
            if let scheme, origin[scheme.upperBound...].lowercased() == head.authority?.lowercased() { return nil }
        } else {
            return nil
        }
        return Problem(.originRefused, "a web page of another origin may order nothing here", field: "Origin")
    }

    private func isOurs(_ authority: String) -> Bool {
        guard let names else { return true }
        // What holds nothing but digits and points is an address to every browser, however odd, and so is what is in
        // brackets.
        let bytes = authority.utf8
        if bytes.first == UInt8(ascii: "[") { return true }
        let host = bytes.prefix { $0 != UInt8(ascii: ":") }
        if !host.isEmpty, host.allSatisfy({ (0x30...0x39).contains($0) || $0 == UInt8(ascii: ".") }) { return true }
        var name = Substring(host).lowercased()
        if name.hasSuffix(".") { name.removeLast() }
        return names.contains(name)
    }
}

extension HTTPField.Name {
    static let secFetchSite = HTTPField.Name("Sec-Fetch-Site")!
}
