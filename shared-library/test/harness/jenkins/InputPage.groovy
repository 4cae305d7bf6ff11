package jenkins

/** The page of an input as a browser shows it: with both formatters of Jenkins, in which white space collapses. */
class InputPage {
    private final Map options

    InputPage(Map options) {
        this.options = options
        if (!options.parameters) {
            throw new IllegalStateException("the input ${options.id} has no parameter to show its evidence with")
        }
    }

    /** The texts that a person reads: `heading`; `plain` and `html`, the description with each formatter. */
    Map shown() {
        String description = options.parameters[0].description
        return [
            heading    : collapse(escape(options.message)),
            description: description,
            plain      : escape(description).replace('\n', '<br>').split('<br>').collect { collapse(it) },
            html       : collapse(description),
        ]
    }

    private static String escape(String text) {
        return text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    }

    /** What is left of the text after tags and entities are interpreted and white space has collapsed. */
    private static String collapse(String html) {
        String text = html.replaceAll(/(?s)<[^>]*>/, '').replace('&lt;', '<').replace('&gt;', '>').replace('&amp;', '&')
        return text.replaceAll(/\s+/, ' ').trim()
    }
}
