// SPDX-License-Identifier: Apache-2.0

import Hiredis

/// A page of what SCAN or SSCAN finds. What is not text is none of ours and left out.
struct ScannedPage {
    /// Where the next page begins; "0" when this was the last.
    let next: String
    let items: [String]

    init?(_ reply: RedisReply) {
        guard case .array(let parts) = reply, parts.count == 2, let next = parts[0].text,
            case .array(let found) = parts[1]
        else { return nil }
        self.next = next
        items = found.compactMap(\.text)
    }

    static let first = "0"

    /// Asks for a page of the names of groups.
    static func ofGroups(_ keys: Keyspace, from cursor: String, count: Int, to writer: inout CommandWriter) {
        writer.begin(5)
        writer.argument("SSCAN")
        writer.argument(keys.groups)
        writer.argument(cursor)
        writer.argument("COUNT")
        writer.argument(Int64(count))
    }
}
