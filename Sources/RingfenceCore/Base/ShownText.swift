// SPDX-License-Identifier: Apache-2.0
//
// Characters that make people see something other than what is there. A control character moves the cursor of a
// terminal; a format character reverses the text behind it (U+202E), breaks a line (U+2028) or is invisible (U+200B),
// so that two names look like one. New names, owners and reasons have none of them (Limits.swift). What is there
// already, from an older version or another writer, is shown with such characters written out.

extension Unicode.Scalar {
    /// A control or format character, or a separator of lines or paragraphs.
    package var isUnseen: Bool {
        switch value {
        case ..<0x20, 0x7F..<0xA0: return true
        case ..<0xA0: return false
        default: return isFormat
        }
    }

    /// A format character, or a separator of lines or paragraphs.
    var isFormat: Bool {
        switch properties.generalCategory {
        case .format, .lineSeparator, .paragraphSeparator: true
        default: false
        }
    }
}

extension String {
    /// The text on one line of a terminal, with what could not be seen written out: `a\u{202E}b`.
    package var shown: String {
        guard unicodeScalars.contains(where: \.isUnseen) else { return self }
        return unicodeScalars.reduce(into: "") { text, scalar in
            if scalar.isUnseen {
                text += "\\u{" + String(scalar.value, radix: 16, uppercase: true) + "}"
            } else {
                text.unicodeScalars.append(scalar)
            }
        }
    }
}

/// What a stranger sent, short and printable, for an error message.
package func quoted(_ text: String) -> String {
    let shown = String(String.UnicodeScalarView(text.unicodeScalars.prefix(64))).shown
    return "\"" + shown + (text.unicodeScalars.count > 64 ? "…" : "") + "\""
}
