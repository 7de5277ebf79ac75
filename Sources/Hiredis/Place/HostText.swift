// SPDX-License-Identifier: Apache-2.0

/// `host`, `host:port`, `[IPv6]` or `[IPv6]:port`, as people write it.
struct HostText {
    var host: String
    /// nil: none was written.
    var port: Int?

    /// Which part is wrong.
    struct Failure: Error {
        var reason: String
    }

    init(_ text: Substring) throws(Failure) {
        let rest: Substring
        if text.first == "[" {
            guard let end = text.firstIndex(of: "]") else { throw Failure(reason: "its host lacks the closing \"]\"") }
            host = String(text[text.index(after: text.startIndex)..<end])
            rest = text[text.index(after: end)...]
        } else {
            let name = text.prefix { $0 != ":" }
            host = String(name)
            rest = text[name.endIndex...]
            guard !rest.dropFirst().contains(":") else {
                throw Failure(reason: "an IPv6 address as its host stands in brackets, like [::1]")
            }
        }
        guard !host.isEmpty else { throw Failure(reason: "it has no host") }
        guard host.utf8.count <= 253 else { throw Failure(reason: "its host is longer than 253 bytes") }
        if rest.isEmpty { return }
        guard rest.first == ":", let number = Int(rest.dropFirst()), (1...65_535).contains(number) else {
            throw Failure(reason: "its port must be a number from 1 to 65535")
        }
        port = number
    }
}
