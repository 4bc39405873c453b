"""DiffuAgent's plug-in modules (section 5). Each has its own backbone, trigger and prompt, and keeps no more than it must."""
