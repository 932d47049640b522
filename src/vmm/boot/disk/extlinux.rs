//! The menus of EXTLINUX and SYSLINUX: labels with a kernel each.
//!
//! ```text
//!   DEFAULT NAME
//!   LABEL NAME
//!     MENU LABEL title
//!     LINUX path      (or KERNEL)
//!     INITRD path,path
//!     APPEND command line
//! ```
//!
//! Keywords are of any case. Included files are not followed. Source: the SYSLINUX wiki, "Config".

/// A label, with paths as it wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Label {
    name: String,
    pub(super) title: String,
    pub(super) kernel: String,
    pub(super) initrds: Vec<String>,
    pub(super) command_line: String,
}

/// The labels of a configuration that have a kernel, the default first.
pub(super) fn labels(text: &str) -> Vec<Label> {
    let mut labels: Vec<Label> = Vec::new();
    let mut default = None;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let (keyword, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let value = value.trim();
        let keyword = keyword.to_ascii_lowercase();
        if keyword == "default" {
            default = default.or(Some(value));
        } else if keyword == "label" {
            labels.push(Label { name: value.to_owned(), title: value.to_owned(), ..Label::default() });
        } else if let Some(label) = labels.last_mut() {
            label.set(&keyword, value);
        }
    }
    labels.retain(|label| !label.kernel.is_empty());
    if let Some(index) = labels.iter().position(|label| default == Some(&label.name)) {
        labels[..=index].rotate_right(1);
    }
    labels
}

impl Label {
    fn set(&mut self, keyword: &str, value: &str) {
        match keyword {
            "linux" | "kernel" => value.clone_into(&mut self.kernel),
            "initrd" => self.initrds = value.split(',').map(str::to_owned).collect(),
            "append" => {
                // An initrd may be given among the parameters, and is not one of the kernel's.
                let (initrds, rest): (Vec<&str>, Vec<&str>) =
                    value.split_whitespace().partition(|word| word.starts_with("initrd="));
                self.command_line = rest.join(" ");
                if let Some(list) = initrds.last() {
                    self.initrds = list["initrd=".len()..].split(',').map(str::to_owned).collect();
                }
            }
            "menu" => {
                if let Some((word, title)) = value.split_once([' ', '\t'])
                    && word.eq_ignore_ascii_case("label")
                {
                    // A caret marks the letter that chooses the entry.
                    self.title = title.trim().replace('^', "");
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_comes_first_and_initrds_are_found_in_both_places() {
        let text = "# a menu\nDEFAULT virt\nPROMPT 0\nTIMEOUT 10\nLABEL lts\n  MENU LABEL Linux ^lts\n  LINUX vmlinuz-lts\n  APPEND root=/dev/vda2 initrd=a,b quiet\nLABEL virt\n\tkernel /boot/vmlinuz-virt\n\tINITRD /boot/initramfs-virt\n\tAPPEND root=UUID=1 modules=ext4\nLABEL none\n  COM32 x.c32\n";
        let labels = labels(text);
        assert_eq!(labels.len(), 2);
        assert_eq!(labels[0].title, "virt");
        assert_eq!(labels[0].initrds, ["/boot/initramfs-virt"]);
        assert_eq!(labels[0].command_line, "root=UUID=1 modules=ext4");
        assert_eq!(labels[1].title, "Linux lts");
        assert_eq!(labels[1].initrds, ["a", "b"]);
        assert_eq!(labels[1].command_line, "root=/dev/vda2 quiet");
    }
}
