// SPDX-License-Identifier: Apache-2.0

/// A replica as its primary lists it in INFO: `slave0:ip=10.0.0.2,port=6379,state=online,offset=14,lag=0`.
package struct ListedReplica: Sendable, Equatable {
    package var host: String
    /// 0 where it is not said.
    package var port: Int
    /// It gets the stream of writes.
    package var isOnline: Bool
    /// How long ago it was heard last; nil where it is not said.
    package var lag: Duration?

    /// From what stands behind the colon.
    package init(_ line: some StringProtocol) {
        var fields: [Substring: Substring] = [:]
        for pair in line.split(separator: ",") {
            let name = pair.prefix { $0 != "=" }
            fields[Substring(name)] = Substring(pair.dropFirst(name.count + 1))
        }
        host = String(fields["ip"] ?? "")
        port = fields["port"].flatMap { Int($0) } ?? 0
        isOnline = fields["state"] == "online"
        lag = fields["lag"].flatMap { Int64($0) }.flatMap { $0 < 0 ? nil : .seconds($0) }
    }
}
