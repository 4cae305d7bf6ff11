package io.tidegate

/** Files of the build: from the agent's workspace, or without an agent from the repository of the Jenkinsfile. */
class Workspace implements Serializable {
    private static final long serialVersionUID = 1L

    final script

    Workspace(script) {
        this.script = script
    }

    /** The text of a file. */
    String read(String path) {
        return Restart.repeating(script) {
            script.env.WORKSPACE ? script.readFile(file: path, encoding: 'UTF-8') : script.readTrusted(path)
        }
    }

    /** The content of a file as the API takes it: bytes from a workspace, because they need not be text. */
    Object content(String path) {
        if (!script.env.WORKSPACE) {
            return read(path)
        }
        String bytes = Restart.repeating(script) {
            script.readFile(file: path, encoding: 'Base64')
        }
        return [base64: bytes]
    }

    void write(String path, String text) {
        Restart.repeating(script) {
            script.writeFile(file: path, text: text, encoding: 'UTF-8')
        }
    }

    void archive(String paths) {
        Restart.repeating(script) {
            script.archiveArtifacts(artifacts: paths)
        }
    }
}
