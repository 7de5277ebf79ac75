// SPDX-License-Identifier: Apache-2.0
import RingfencePlatform

/// Milliseconds since 1970 as RFC 3339 has it: `2026-11-23T01:02:03.456Z`.
/// - Parameter isLocal: in the time zone of this machine: `2026-11-23T02:02:03.456+01:00`.
package func timeText(_ milliseconds: Int64, isLocal: Bool = false) -> String {
    var seconds = time_t(milliseconds / 1_000)
    var parts = tm()
    if isLocal { localtime_r(&seconds, &parts) } else { gmtime_r(&seconds, &parts) }
    var text = [CChar](repeating: 0, count: 32)
    let length = strftime(&text, text.count, "%Y-%m-%dT%H:%M:%S", &parts)
    let digits = String(1_000 + milliseconds % 1_000).dropFirst()
    var zone = "Z"
    if isLocal {
        let minutes = abs(Int(parts.tm_gmtoff)) / 60
        let clock = [minutes / 60, minutes % 60].map { String(String(100 + $0).dropFirst()) }
        zone = (parts.tm_gmtoff < 0 ? "-" : "+") + clock.joined(separator: ":")
    }
    return String(decoding: text[..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self) + "." + digits + zone
}

/// Nanoseconds since 1970.
package func wallClockNanoseconds() -> Int64 {
    withUnsafeTemporaryAllocation(of: timespec.self, capacity: 1) { time in
        guard let place = time.baseAddress, clock_gettime(CLOCK_REALTIME, place) == 0 else { return 0 }
        return nanoseconds(of: UnsafeRawBufferPointer(time))
    }
}

/// A timespec by its memory, two words: which module its members are from, the compiler sees now one way and now
/// another (in a release build otherwise than in a debug build), and one of the modules cannot be imported.
package func nanoseconds(of timespec: UnsafeRawBufferPointer) -> Int64 {
    let (seconds, nanoseconds) = timespec.load(as: (Int, Int).self)
    return Int64(seconds) * 1_000_000_000 + Int64(nanoseconds)
}
