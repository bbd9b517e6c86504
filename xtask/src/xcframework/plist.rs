//! Property lists, as XML.

pub enum Value {
    Text(String),
    Array(Vec<Value>),
    Dict(Vec<(&'static str, Value)>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

pub fn document(value: &Value) -> String {
    let mut xml = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
         \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n",
    );
    write(value, 0, &mut xml);
    xml + "</plist>\n"
}

fn write(value: &Value, depth: usize, xml: &mut String) {
    let indent = "\t".repeat(depth);
    match value {
        Value::Text(text) => *xml += &format!("{indent}<string>{}</string>\n", escaped(text)),
        Value::Array(values) => {
            *xml += &format!("{indent}<array>\n");
            for value in values {
                write(value, depth + 1, xml);
            }
            *xml += &format!("{indent}</array>\n");
        }
        Value::Dict(entries) => {
            *xml += &format!("{indent}<dict>\n");
            for (key, value) in entries {
                *xml += &format!("{indent}\t<key>{key}</key>\n");
                write(value, depth + 1, xml);
            }
            *xml += &format!("{indent}</dict>\n");
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_values_are_written_with_their_keys() {
        let value = Value::Dict(vec![
            ("Name", "a<b&c".into()),
            ("List", Value::Array(vec!["1".into()])),
        ]);
        let xml = document(&value);
        let body = "<dict>\n\t<key>Name</key>\n\t<string>a&lt;b&amp;c</string>\n\
                    \t<key>List</key>\n\t<array>\n\t\t<string>1</string>\n\t</array>\n</dict>\n";
        assert!(xml.ends_with(&format!("{body}</plist>\n")), "{xml}");
    }
}
