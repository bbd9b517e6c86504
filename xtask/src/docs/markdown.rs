//! What of Markdown the documents use: links, headings, blocks of code.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::relative;

/// Folders whose documents are not the project's.
const FOREIGN: &[&str] = &["target", "dist", "node_modules", ".git", ".venv"];

pub struct Document {
    /// From the root of the tree.
    pub path: PathBuf,
    folder: PathBuf,
    text: String,
}

/// A fenced block of code.
pub struct Block {
    /// Of its fence, from 1.
    pub line: usize,
    pub text: String,
}

/// Every Markdown file below a folder.
pub fn all(folder: &Path) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    collect(folder, &mut documents)?;
    documents.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(documents)
}

fn collect(folder: &Path, documents: &mut Vec<Document>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if entry.file_type()?.is_dir() {
            if !FOREIGN.iter().any(|&foreign| name == foreign) {
                collect(&path, documents)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            documents.push(Document {
                text: fs::read_to_string(&path)
                    .with_context(|| format!("reading {}", path.display()))?,
                folder: folder.to_owned(),
                path: relative(&path),
            });
        }
    }
    Ok(())
}

impl Document {
    /// Targets of links and images that lie in the tree.
    pub fn links(&self) -> Vec<&str> {
        self.prose()
            .flat_map(|line| line.split("](").skip(1))
            .filter_map(|rest| rest.split(')').next())
            .filter(|target| !target.contains(':'))
            .collect()
    }

    /// Fails unless the target is there, and its heading if it names one.
    pub fn follow(&self, target: &str) -> Result<()> {
        let (path, heading) = target.split_once('#').unwrap_or((target, ""));
        let file = match path {
            "" => super::root().join(&self.path),
            path => self.folder.join(path),
        };
        ensure!(file.exists(), "there is no such file");
        if !heading.is_empty() && file.extension().is_some_and(|kind| kind == "md") {
            let text = fs::read_to_string(&file)?;
            let found = prose_of(&text).any(|line| anchor_of(line).as_deref() == Some(heading));
            ensure!(found, "it has no such heading");
        }
        Ok(())
    }

    /// The blocks of code whose fence says exactly this.
    pub fn code(&self, language: &str) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut lines = self.text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let Some(found) = line.trim_start().strip_prefix("```") else {
                continue;
            };
            let code = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| !line.trim_start().starts_with("```"));
            let text = code.flat_map(|line| [line, "\n"]).collect();
            if found.trim() == language {
                let line = index + 1;
                blocks.push(Block { line, text });
            }
        }
        blocks
    }

    fn prose(&self) -> impl Iterator<Item = &str> {
        prose_of(&self.text)
    }
}

/// The lines outside of blocks of code.
fn prose_of(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// What GitHub calls a heading in links.
fn anchor_of(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = title
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect();
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# A title, `with code`

[one](there.md) and [two](#a-title-with-code), [not](https://example.org).

```c
int a; /* [no link](nowhere.md) */
```
```python
b
```
";

    fn document(folder: &Path) -> Document {
        Document {
            path: folder.join("a.md"),
            folder: folder.to_owned(),
            text: TEXT.to_owned(),
        }
    }

    #[test]
    fn links_are_followed_and_those_in_code_are_none() -> Result<()> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("a.md"), TEXT)?;
        let document = document(dir.path());
        assert_eq!(document.links(), ["there.md", "#a-title-with-code"]);
        assert!(document.follow("there.md").is_err());
        assert!(document.follow("#a-title-with-code").is_ok());
        assert!(document.follow("#another").is_err());
        fs::write(dir.path().join("there.md"), "")?;
        assert!(document.follow("there.md").is_ok());
        Ok(())
    }

    #[test]
    fn code_is_found_by_its_language() {
        let blocks = document(Path::new("")).code("c");
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].line, 5);
        assert!(blocks[0].text.starts_with("int a;"));
    }
}
